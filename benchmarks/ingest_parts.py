"""Measure ingest in parts: speed, what is reused, one result however it is made, and kills.

Draws images (benchmarks/drawn_images.py) and prints two tables. The first: ingest in one process and in
several, by Dask, and by Ray where it is installed; then again with another seed and with 1 % new images. Rows
of the same images must have one SHA-256. The second: `kill -9` of all processes at points of ingest, and the
run after it, which must give the same manifest and examine no chunk that was complete.

    python benchmarks/ingest_parts.py --images 100000
    python benchmarks/ingest_parts.py --images 20000 --size 32 --data cells.zip
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from drawn_images import make
from small_runs import ROOT, manifest

from hemaflow.infra.deploy.stack import Stack, free_ports
from hemaflow.infra.settings import available_cores
from hemaflow.infra.store.local import LocalStore

POINTS = (
    "before put_file parts/ingest/*.npz#1",
    "after put_file parts/ingest/*.npz#2",
    "before create stages/ingest/parts/*#3",
    "after create stages/ingest/parts/*#4",
    "before put_file stages/ingest/train-00000-of-*",
    "after put_file stages/ingest/val-00000-of-*",
    "before create parts/ingest/*.json#2",
    "after put parts/uses/*",
    "before put stages/ingest/index.npz",
    "before create stages/ingest/manifest.json",
    "after create stages/ingest/manifest.json",
)
CHUNK_WRITES = "before put_file parts/ingest/*.npz"
ONE_PIECE = {"HEMAFLOW_CHUNK_IMAGES": "1000000000"}


class Measured(NamedTuple):
    """What a run of ingest took."""

    code: int
    seconds: float
    cpu_seconds: float
    peak_mib: float
    """Of the process that took most."""


def ingest(
    store: LocalStore, data: Path, size: int, *arguments: str, environment: Mapping[str, str]
) -> Measured:
    """Run ingest in processes of their own."""
    command = [sys.executable, "-m", "hemaflow", "run", "--store", store.url, "--data", str(data)]
    command += ["--until", "ingest", "--set", f"ingest.image_size_pixels={size}", *arguments]
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    return Measured(process.returncode, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def digest(store: LocalStore) -> str:
    """Return the digest of the one result of ingest in a store; "none" where there is none."""
    made = manifest(store, "ingest")
    return made.digest[:12] if made else "none"


def speed(folder: Path, data: Path, images: int, size: int) -> set[str]:
    """Print a row for each way to make the result; return the digests, which must be one."""
    stack = Stack(folder / "stack")
    stack.start_prefect(free_ports(1)[0])
    served = {name: value for name, value in stack.environment().items() if name.startswith("PREFECT")}
    ways: dict[str, dict[str, str]] = {
        "1 process, 1 thread": {"HEMAFLOW_WORKERS": "1", **ONE_PIECE},
        "1 process, 2 threads": {"HEMAFLOW_WORKERS": "2", **ONE_PIECE},
        "2 processes": {"HEMAFLOW_WORKERS": "2"},
        "Dask, 2 processes": {"HEMAFLOW_WORKERS": "2", "HEMAFLOW_TASK_RUNNER": "dask", **served},
    }
    if importlib.util.find_spec("prefect_ray"):
        ways["Ray, 2 processes"] = {"HEMAFLOW_WORKERS": "2", "HEMAFLOW_TASK_RUNNER": "ray", **served}
    digests = set()
    print("| ingest | seconds | CPU seconds | images/s | peak MiB | SHA-256 |\n|---|---|---|---|---|---|")
    try:
        for name, environment in ways.items():
            store = LocalStore(folder / name.replace(" ", "_").replace(",", ""))
            made = ingest(store, data, size, environment=environment)
            digests.add(digest(store))
            print(row(name, made, images, digest(store)), flush=True)
    finally:
        stack.down()
    store = LocalStore(folder / "2_processes")
    again = ingest(store, data, size, "--set", "ingest.seed=1", environment={})
    print(row("again, with another seed", again, images, ""), flush=True)
    if data.is_relative_to(folder):  # it was drawn for this
        make(data, images + images // 100, size=size)
        more = ingest(store, data, size, environment={})
        print(row("again, with 1 % new images", more, images + images // 100, ""), flush=True)
    return digests


def row(name: str, made: Measured, images: int, made_digest: str) -> str:
    """Return a line of the first table."""
    rate = images / made.seconds
    return (
        f"| {name} | {made.seconds:.1f} | {made.cpu_seconds:.1f} | {rate:.0f} | {made.peak_mib:.0f} "
        f"| {made_digest or '—'}{'' if made.code == 0 else f' exit code {made.code}'} |"
    )


def kills(folder: Path, data: Path, size: int, workers: int, points: Sequence[str]) -> int:
    """Print a row for each kill; return how many went wrong."""
    trace, environment = folder / "trace", {"HEMAFLOW_WORKERS": str(workers)}
    reference = LocalStore(folder / "reference")
    path = os.pathsep.join([str(Path(__file__).parent / "crashing"), str(ROOT)])

    def traced(store: LocalStore, point: str) -> tuple[int, int]:
        """Run ingest, killed at a point; return the exit code and how many chunks it began to store."""
        trace.write_text("")
        crashing = {
            "CRASH_TRACE": str(trace),
            "CRASH_AT": point,
            "CRASH_STORE": store.url,
            "PYTHONPATH": path,
        }
        code = ingest(store, data, size, environment=environment | crashing).code
        return code, sum(fnmatch.fnmatchcase(line, CHUNK_WRITES) for line in trace.read_text().splitlines())

    _, num_chunks = traced(reference, "")
    wrong = 0
    print(f"\n{num_chunks} chunks\n| killed | chunks done twice | result |\n|---|---|---|")
    for number, point in enumerate(points):
        store = LocalStore(folder / f"killed{number}")
        killed, first = traced(store, point)
        code, second = traced(store, "")
        made, expected = manifest(store, "ingest"), manifest(reference, "ingest")
        repeated = first + second - num_chunks
        same = killed == -signal.SIGKILL and code == 0 and made == expected and repeated <= workers
        wrong += not same
        print(f"| {point} | {max(repeated, 0)} | {'same' if same else f'{killed} {code}'} |", flush=True)
    print(f"{len(points)} kills, {wrong} wrong")
    return wrong


def main() -> int:
    """Print both tables; return 1 where a result differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=96, help="image size, pixels")
    parser.add_argument("--data", type=Path, help="images that are there already: a folder or zip")
    parser.add_argument("--only", choices=("speed", "kills"), help="one of the tables")
    parser.add_argument("--points", nargs="+", default=["*"], help="only the kills that match one of these")
    arguments = parser.parse_args()
    points = [point for point in POINTS if any(fnmatch.fnmatchcase(point, each) for each in arguments.points)]
    print(f"{platform.machine()}, {available_cores()} cores, {platform.system()}; {arguments.size} px\n")
    with tempfile.TemporaryDirectory(prefix="ingest-parts-") as name:
        folder = Path(name)
        data = arguments.data or folder / "cells"
        if arguments.data is None:
            make(data, arguments.images, size=arguments.size)
        wrong = 0
        if arguments.only != "kills":
            wrong += len(speed(folder, data, arguments.images, arguments.size)) != 1
        if arguments.only != "speed":
            wrong += kills(folder, data, arguments.size, 2, points)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
