"""Measure ingest and the commands on a folder of many small pictures.

Draws pictures of 32 px in 1,000 folders (benchmarks/drawn_images.py), and prints for the first ingest,
`plan`, the reused run, `runs`, `show`, and the ingest after 1,000 more pictures: seconds, and the most memory
that all processes had for themselves together (USS) and that the largest one had (RSS), twice a second.

    python benchmarks/million.py /tmp/million --images 1000000

The folder keeps the pictures, the store and the cache of checksums: a million takes about 10 GB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from drawn_images import CHUNK, make, write_chunk

SIZE = 32
MORE = 1000
LOOK_SECONDS = 0.5


def memory_bytes(process: psutil.Process) -> tuple[int, int]:
    """Return the USS of a process and all below it together, and the largest RSS among them."""
    own, largest = 0, 0
    for each in [process, *process.children(recursive=True)]:
        try:
            memory = each.memory_full_info()
        except psutil.Error:
            continue
        own, largest = own + memory.uss, max(largest, memory.rss)
    return own, largest


def measure(folder: Path, *arguments: str) -> None:
    """Run a command of hemaflow and print what it took. Raises CalledProcessError."""
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    environment = {**os.environ, "HEMAFLOW_STAT_CACHE_DIR": str(folder / "stat"), "TMPDIR": str(scratch)}
    own, largest, started = 0, 0, time.monotonic()
    with (folder / "output.txt").open("w") as output:
        process = psutil.Popen(
            [sys.executable, "-m", "hemaflow", *arguments], env=environment, stdout=output, stderr=output
        )
        while process.poll() is None:
            try:
                now = memory_bytes(process)
            except psutil.Error:
                break
            own, largest = max(own, now[0]), max(largest, now[1])
            time.sleep(LOOK_SECONDS)
        code = process.wait()
    if code:
        raise subprocess.CalledProcessError(code, arguments, (folder / "output.txt").read_text()[-2000:])
    seconds = time.monotonic() - started
    print(f"| {arguments[0]} | {seconds:.1f} | {own / 2**20:.0f} | {largest / 2**20:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for pictures and results")
    parser.add_argument("--images", type=int, default=1_000_000, help=f"number of pictures, whole {CHUNK}s")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    cells, store = folder / "cells", folder / "store"
    cells.mkdir(parents=True, exist_ok=True)
    make(cells, arguments.images, size=SIZE)
    asked = ["--data", str(cells), "--store", str(store), "--recipe", "demo", "--until", "ingest"]
    asked += ["--set", f"ingest.image_size_pixels={SIZE}"]
    print(f"{arguments.images} pictures of {SIZE} px\n")
    print("| command | seconds | MiB together | MiB of the largest |\n|---|---|---|---|")
    for command in ("run", "plan", "run"):
        measure(folder, command, *asked)
    measure(folder, "runs", "--store", str(store))
    measure(folder, "show", "--store", str(store))
    num = arguments.images + MORE
    write_chunk(arguments.images // CHUNK, root=cells, num=num, size=SIZE, kind="jpg", seed=0)
    print(f"{MORE} more pictures:")
    measure(folder, "run", *asked)


if __name__ == "__main__":
    main()
