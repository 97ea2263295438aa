"""Many processes, one stage key: one result, all of them right, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hemaflow.infra.results.manifest import load_manifest
from hemaflow.infra.store.base import Store

RACERS = 8
RACE = """
import json, sys
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import KeyInputs
from hemaflow.infra.store.open import open_store
url, number = sys.argv[1:]
store = open_store(url)
draft = Draft(store, KeyInputs(stage="train", config={}, parents={}, code={}, libraries={}))
store.stat("warm")
print("ready", flush=True)
sys.stdin.readline()
draft.keep("checkpoint", b"work of " + number.encode())
draft.put("same", b"the same of all")
draft.put("own", b"made by " + number.encode())
print(json.dumps([draft.commit(made=1).digest, draft.key]))
"""


@pytest.mark.slow
def test_many_processes_make_one_result(any_store: Store) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, any_store.url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(RACERS)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=120) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * RACERS, said
    answers = {out for out, _ in said}
    assert len(answers) == 1  # the same manifest to all
    digest, key = json.loads(answers.pop())
    found = load_manifest(any_store, "train", key)
    assert found is not None
    assert found[0].digest == digest
    assert [stored.problem(any_store) for stored in found[0].objects] == ["", ""]
    recorded = {stored.location for stored in found[0].objects}
    assert set(any_store.list("")) == recorded | {f"stages/train/{key}/manifest.json"}
