"""Plain pictures and noise are told from cells."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hemaflow.tasks.ingest.content import content_notes
from hemaflow.tasks.sources.sample_cells import draw_cell

RNG = np.random.default_rng(0)


def kinds(pixels: NDArray[np.uint8]) -> list[str]:
    return [note.kind for note in content_notes(pixels)]


def as_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


NOISE = RNG.integers(0, 256, (96, 96, 3), np.uint8)
NORMAL = np.clip(RNG.normal(128, 20, (64, 300, 3)), 0, 255).astype(np.uint8)
SALT = np.where(RNG.random((96, 96, 1)) < 0.1, 255, 30).repeat(3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    "pixels", [NOISE, NORMAL, SALT, NOISE[:16, :16], as_jpeg(NOISE, 60), as_jpeg(NOISE, 15)]
)
def test_noise_is_told(pixels: NDArray[np.uint8]) -> None:
    assert kinds(pixels) == ["noise-picture"]


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (30, 200, 90)])
@pytest.mark.parametrize("shape", [(96, 96, 3), (1, 1, 3), (700, 20, 3)])
def test_plain_pictures_are_told(colour: tuple[int, int, int], shape: tuple[int, int, int]) -> None:
    plain = np.broadcast_to(np.array(colour, np.int64), shape)
    assert kinds(plain.astype(np.uint8)) == ["plain-picture"]
    almost = np.clip(plain + RNG.integers(-3, 4, shape), 0, 255).astype(np.uint8)
    assert kinds(almost) == ["plain-picture"]


def test_cells_are_neither() -> None:
    for label in range(8):
        for number in range(6):
            cell = draw_cell(label, number)
            assert (
                kinds(cell)
                == kinds(as_jpeg(cell, 30))
                == kinds(np.kron(cell, np.ones((8, 8, 1), np.uint8)))
                == []
            )


def test_a_small_cell_in_a_large_field_is_not_plain() -> None:
    field = np.full((3000, 3000, 3), 240, np.uint8)
    field[1300:1700, 1300:1700] = (90, 60, 140)
    assert kinds(field) == []
