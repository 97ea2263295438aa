"""The heavy mix: what it draws, whom it depends on, and that it shares nothing with training."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from hemaflow.infra.results.fingerprint import ROOT
from hemaflow.tasks.predict.heavy_mix import FAMILIES, MOST_OPERATIONS, chain, hue, spoil
from hemaflow.tasks.predict.medmnist_c import generator
from hemaflow.tasks.sources.sample_cells import draw_cell

OPERATIONS = {name: operation for family in FAMILIES.values() for name, operation in family.items()}
CELLS = np.stack([draw_cell(label, index) for label in range(8) for index in range(4)])
IDS = [f"cell {number}" for number in range(len(CELLS))]
PATTERN = (np.arange(16 * 16 * 3).reshape(16, 16, 3) * 37 % 256).astype(np.uint8)
"""The same on every machine."""


@pytest.mark.parametrize("size", [9, 28, 96])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_changes_the_picture_and_leaves_its_input_alone(name: str, size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    former = image.copy()
    for number in range(5):
        spoiled = OPERATIONS[name](image, generator(name, number))
        assert (spoiled.shape, spoiled.dtype) == (image.shape, np.uint8)
        assert (spoiled != image).any() or (name, size < 96) == ("defocus_blur", True)  # within a pixel
    np.testing.assert_array_equal(image, former)


def test_one_to_three_operations_of_different_families_and_all_of_them_come_up() -> None:
    family_of = {name: family for family, operations in FAMILIES.items() for name in operations}
    lengths, seen = [0] * (MOST_OPERATIONS + 1), set()
    for number in range(3000):
        names = [name for name, _ in chain(generator(0, number))]
        families = [family_of[name] for name in names]
        assert len(set(families)) == len(families)
        lengths[len(names)] += 1
        seen |= set(names)
    assert lengths[0] == 0
    assert min(lengths[1:]) > 900
    assert seen == set(OPERATIONS)


def test_what_an_image_becomes_follows_from_seed_and_id() -> None:
    whole = spoil(CELLS, IDS, 0)
    backwards = spoil(CELLS[::-1], IDS[::-1], 0)
    np.testing.assert_array_equal(backwards[::-1], whole)
    np.testing.assert_array_equal(spoil(CELLS[5:6], IDS[5:6], 0)[0], whole[5])
    other = spoil(CELLS, IDS, 1)
    assert sum((one != two).any() for one, two in zip(whole, other, strict=True)) > len(CELLS) - 3


def test_the_mix_is_the_same_for_ever() -> None:
    spoiled = spoil(np.stack([PATTERN] * 12), [f"a/{number}.jpg" for number in range(12)], 3)
    assert hashlib.sha256(spoiled.tobytes()).hexdigest()[:16] == "81859886ecc72d05"


def test_hue_leaves_greys_alone() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)
    for number in range(5):
        np.testing.assert_array_equal(hue(grey, generator(number)), grey)


@pytest.mark.slow
def test_the_mix_has_nothing_of_what_training_is_augmented_by() -> None:
    """A model that learnt the layers of keras-cv has not learnt this."""
    code = (
        "import sys, numpy as np\n"
        "from hemaflow.tasks.predict import heavy_mix\n"
        "heavy_mix.spoil(np.zeros((40, 16, 16, 3), np.uint8), [str(n) for n in range(40)], 0)\n"
        "unwanted = ('keras', 'tensorflow', 'hemaflow.tasks.layers')\n"
        "found = [name for name in sys.modules if name.startswith(unwanted)]\n"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
