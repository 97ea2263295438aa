"""Draw many small pictures of cells, for measurements that need more than real data holds.

Writes a folder of 1,000 folders (class_0/plate_0000/00000000.jpg …), or one zip where the path ends in .zip.
The k-th picture is the same in every run, however many are drawn. Each has a disc, whose size and colour
depend on its class, in a smooth random texture: the perceptual hashes of two of them differ about as much as
those of two real cells. Of each 1,000 pictures, 5 are exact copies and 10 near copies (brighter, saved again)
of another.

    python benchmarks/drawn_images.py /tmp/cells --images 1000000
    python benchmarks/drawn_images.py /tmp/cells.zip --images 1000000 --format png
"""

from __future__ import annotations

import argparse
import io
import time
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NUM_CLASSES, NUM_FOLDERS = 8, 1000
CHUNK = 1000
"""Pictures that are drawn at once, from one seed."""
COARSE = 12
"""Side of the random texture before it is made smooth."""
EXACT, NEAR = range(100, 105), range(200, 210)
"""Places in a chunk of copies: each of the picture of the same class before it."""
QUALITY, NEAR_QUALITY, NEAR_BRIGHTER = 90, 75, 6


Made = TypeVar("Made")


class Drawn(NamedTuple):
    """A picture as a file."""

    path: str
    data: bytes


def textures(rng: np.random.Generator, num: int, size: int) -> NDArray[np.float32]:
    """Return smooth random pictures float32[num, size, size, 3] of about zero mean."""
    coarse = rng.normal(size=(num, COARSE, COARSE, 3)).astype(np.float32)
    places = np.linspace(0, COARSE - 1, size)
    spread = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(COARSE))).astype(np.float32)
    rows = np.einsum("sc,ncdk->nsdk", spread, coarse, optimize=True)
    smooth: NDArray[np.float32] = np.einsum("sd,nrdk->nrsk", spread, rows, optimize=True)
    return smooth


def draw(chunk: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Return the pictures of a chunk, uint8[CHUNK, size, size, 3]; the k-th is of class k % NUM_CLASSES."""
    rng = np.random.default_rng((seed, chunk))
    labels = np.arange(CHUNK) % NUM_CLASSES
    radii = size * (0.18 + 0.025 * labels) * rng.uniform(0.9, 1.1, CHUNK)
    middles = size / 2 + size * rng.uniform(-0.08, 0.08, (CHUNK, 2))
    grid = np.arange(size)
    squares = (grid - middles[:, :1]) ** 2, (grid - middles[:, 1:]) ** 2
    distance = np.sqrt(squares[0][:, :, None] + squares[1][:, None, :])
    disc = np.clip(radii[:, None, None] - distance + 0.5, 0, 1).astype(np.float32)[..., None]
    colours = np.random.default_rng(0).uniform(-110, -30, (NUM_CLASSES, 3)).astype(np.float32)[labels]
    pictures = 205 + 22 * textures(rng, CHUNK, size) + disc * colours[:, None, None, :]
    return np.clip(pictures, 0, 255).astype(np.uint8)


def encoded(pixels: NDArray[np.uint8], kind: str, quality: int = QUALITY) -> bytes:
    """Return a picture uint8[size, size, 3] as PNG or JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if kind == "png" else "JPEG", quality=quality, compress_level=1)
    return file.getvalue()


def drawn_chunk(chunk: int, *, num: int, size: int, kind: str, seed: int) -> list[Drawn]:
    """Return the files of a chunk, of `num` pictures in all."""
    pictures = draw(chunk, size, seed)
    files: list[Drawn] = []
    for place in range(min(CHUNK, num - chunk * CHUNK)):
        index, before = chunk * CHUNK + place, pictures[place - NUM_CLASSES]
        if place in EXACT:
            data = encoded(before, kind)
        elif place in NEAR:
            brighter = np.clip(before.astype(np.int16) + NEAR_BRIGHTER, 0, 255).astype(np.uint8)
            data = encoded(brighter, kind, NEAR_QUALITY)
        else:
            data = encoded(pictures[place], kind)
        folder = index % NUM_FOLDERS
        files.append(Drawn(f"class_{folder % NUM_CLASSES}/plate_{folder:04}/{index:08}.{kind}", data))
    return files


def write_chunk(chunk: int, *, root: Path, num: int, size: int, kind: str, seed: int) -> int:
    """Write the files of a chunk below a folder that has the folders of all; return their bytes."""
    files = drawn_chunk(chunk, num=num, size=size, kind=kind, seed=seed)
    for path, data in files:
        (root / path).write_bytes(data)
    return sum(len(data) for _, data in files)


def make_folder(root: Path, num: int, *, size: int, kind: str, seed: int, workers: int) -> int:
    """Write the pictures below a folder; return their bytes."""
    for folder in range(min(NUM_FOLDERS, num)):
        (root / f"class_{folder % NUM_CLASSES}" / f"plate_{folder:04}").mkdir(parents=True, exist_ok=True)
    write = partial(write_chunk, root=root, num=num, size=size, kind=kind, seed=seed)
    return sum(_mapped(write, range(-(-num // CHUNK)), workers))


def make_zip(path: Path, num: int, *, size: int, kind: str, seed: int, workers: int) -> int:
    """Write the pictures into a zip, in order and uncompressed; return their bytes."""
    draw_files, total = partial(drawn_chunk, num=num, size=size, kind=kind, seed=seed), 0
    with zipfile.ZipFile(path, "w") as archive:
        for files in _mapped(draw_files, range(-(-num // CHUNK)), workers):
            for name, data in files:
                archive.writestr(zipfile.ZipInfo(name), data)
                total += len(data)
    return total


def _mapped(function: partial[Made], chunks: Iterable[int], workers: int) -> Iterator[Made]:
    """Map over chunks in processes; yield results in order, with a bounded number in memory."""
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = []
        for chunk in chunks:
            waiting.append(pool.submit(function, chunk))
            if len(waiting) > 4 * workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def make(path: Path, num: int, *, size: int = 32, kind: str = "jpg", seed: int = 0, workers: int = 2) -> int:
    """Write `num` pictures of size × size pixels to a folder, or to a zip where the path ends in .zip.

    Returns:
        The bytes of the files.
    """
    write = make_zip if path.suffix == ".zip" else make_folder
    return write(path, num, size=size, kind=kind, seed=seed, workers=workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", type=Path, help="folder, or file ending in .zip")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=32, help="image size, pixels")
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg", help="format of the files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    started = time.perf_counter()
    size_bytes = make(
        arguments.path,
        arguments.images,
        size=arguments.size,
        kind=arguments.format,
        seed=arguments.seed,
        workers=arguments.workers,
    )
    seconds = time.perf_counter() - started
    print(f"{arguments.images} images, {size_bytes / 2**20:.1f} MiB, {seconds:.0f} s: {arguments.path}")


if __name__ == "__main__":
    main()
