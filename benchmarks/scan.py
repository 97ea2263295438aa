"""How listing, hashing and planning grow with the number of images: 10⁴, 10⁵ and 10⁶ names.

Draws small files in a temporary folder, in three forms: folders of 1,000 files, one folder of them all (and
one with a single file, for a source has two classes), and a zip. Measures in processes of their own:

    scan      list the files, and tell classes from their names
    list      list the files alone, each with its status
    first     content digest, when every file is read
    again     content digest, when nothing changed
    plan      the whole command `hemaflow plan`, nothing changed: seconds on the clock

All but `plan` are seconds of CPU. `beyond` is what the memory of a process grows to by the scan, in bytes an
image beyond its name. `exponent` is the slope of log seconds over log names: 1 is linear.

    python benchmarks/scan.py                    # 10 minutes and 4 million inodes
    python benchmarks/scan.py --sizes 2000 20000 # a minute
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

FILES_PER_FOLDER = 1000
OLD_SECONDS = 2.5
"""Files that were changed less than two seconds ago are read again the next time."""


def draw_folders(root: Path, num_images: int) -> Path:
    for start in range(0, num_images, FILES_PER_FOLDER):
        draw_folder(root / f"class {start // FILES_PER_FOLDER:04d}", range(start, start + FILES_PER_FOLDER))
    return root


def draw_one_folder(root: Path, num_images: int) -> Path:
    draw_folder(root / "class a", range(1))
    draw_folder(root / "class b", range(1, num_images))
    return root


def draw_zip(root: Path, num_images: int) -> Path:
    root.mkdir()
    with zipfile.ZipFile(root / "cells.zip", "w") as archive:
        for number in range(num_images):
            folder = f"class {number // FILES_PER_FOLDER:04d}"
            archive.writestr(zipfile.ZipInfo(f"{folder}/image_{number:07d}.png"), b"%d" % number)
    return root / "cells.zip"


def draw_folder(folder: Path, numbers: range) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"image_{number:07d}.png").write_bytes(b"%d" % number)


FORMS: dict[str, Callable[[Path, int], Path]] = {
    "folders of 1,000": draw_folders,
    "one folder": draw_one_folder,
    "zip": draw_zip,
}


def measure(data: str) -> dict[str, float]:
    """Return the figures of one source, measured in this process."""
    from hemaflow.infra.settings import Settings
    from hemaflow.tasks.sources.listing import list_folder
    from hemaflow.tasks.sources.registry import open_source

    def seconds(work: Callable[[], object]) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    settings = Settings()
    figures: dict[str, float] = {}
    with open_source(data, settings) as source:
        before = peak_bytes()
        began = time.process_time()
        items = source.scan().items
        figures["scan"] = time.process_time() - began
        names = sum(sys.getsizeof(item.ref) for item in items)
        figures["beyond"] = (peak_bytes() - before - names) / len(items)
    if Path(data).is_dir():
        figures["list"] = seconds(lambda: list_folder(Path(data), num_threads=settings.workers))
    for name in ("first", "again"):
        with open_source(data, settings) as source:
            figures[name] = seconds(source.content_digest)
    return figures


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    folder = Path(tempfile.mkdtemp(prefix="hemaflow-scan-"))
    environment = os.environ | {"HEMAFLOW_STAT_CACHE_DIR": str(folder / "cache")}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    try:
        for form, draw in FORMS.items():
            table: dict[str, list[float]] = {}
            for size in arguments.sizes:
                data = str(draw(folder / "data", size))
                time.sleep(OLD_SECONDS)
                figures = json.loads(run(__file__, "--measure", data))
                began = time.monotonic()
                run("-m", "hemaflow", "plan", "--data", data, "--store", str(folder / "store"))
                figures["plan"] = time.monotonic() - began
                for name, figure in figures.items():
                    table.setdefault(name, []).append(figure)
                shutil.rmtree(folder / "data")
            print(f"\n{form:18}" + "".join(f"{size:>12,}" for size in arguments.sizes) + "    exponent")
            for name, found in table.items():
                exponent = np.polyfit(np.log(arguments.sizes), np.log(np.maximum(found, 1e-4)), 1)[0]
                shown = "" if name == "beyond" else f"{exponent:12.2f}"
                print(f"{name:18}" + "".join(f"{figure:12.2f}" for figure in found) + shown, flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
