"""The mutants of benchmarks/mutants.py: each can be planted, and its tests are there."""

from __future__ import annotations

import importlib.util
import re
import sys

from helpers.commands import ROOT


def test_every_mutant_can_be_planted_once_and_names_tests_that_are_there() -> None:
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "benchmarks" / "mutants.py")
    assert spec
    assert spec.loader
    mutants = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = mutants
    spec.loader.exec_module(mutants)
    assert len(mutants.MUTANTS) >= 25
    assert len({mutant.kind for mutant in mutants.MUTANTS}) >= 10
    for mutant in mutants.MUTANTS:
        assert (ROOT / mutant.file).read_text().count(mutant.old) == 1, (mutant.name, mutant.old)
        for test in mutant.tests:
            file, _, name = test.partition("::")
            assert not name or re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), test
