"""How fast shards go to a store in S3 and come back, beside boto3's own transfer manager on the same server.

    python benchmarks/transfer.py [--gigabytes 2] [--shard-megabytes 64] [--rounds 2]

Both move the same files, in turns, from and to a folder on this machine. hemaflow's side includes what it
does besides: the SHA-256 of every file on the way out and of every file on the way in. The peak memory is
that of the process that moves the files.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hemaflow.infra.deploy.stack import BUCKET, Stack, free_ports
from hemaflow.infra.store.base import file_sha256
from hemaflow.infra.store.open import open_store

FILES_AT_ONCE = 2
"""As many as a run has workers on two cores."""


def ours(direction: str, files: Sequence[Path], prefix: str, folder: Path) -> None:
    """Move files by the store's own means."""
    os.environ["HEMAFLOW_STAGING_DIR"] = str(folder / "staging")
    store = open_store(f"s3://{BUCKET}/{prefix}")
    with ThreadPoolExecutor(FILES_AT_ONCE if direction == "up" else 4) as pool:
        if direction == "up":
            list(pool.map(lambda path: store.put_file(path.name, path, file_sha256(path)), files))
        else:
            digests = [(folder / f"{path.name}.sha256").read_text() for path in files]
            list(pool.map(store.path, [path.name for path in files], digests))


def boto3s(direction: str, files: Sequence[Path], prefix: str, folder: Path) -> None:
    """Move files by boto3's transfer manager, as it is."""
    import boto3

    client = boto3.session.Session().client("s3")
    (folder / "boto3").mkdir(exist_ok=True)
    with ThreadPoolExecutor(FILES_AT_ONCE if direction == "up" else 4) as pool:
        if direction == "up":
            list(pool.map(lambda path: client.upload_file(str(path), BUCKET, f"{prefix}/{path.name}"), files))
        else:
            list(
                pool.map(
                    lambda path: client.download_file(
                        BUCKET, f"{prefix}/{path.name}", str(folder / "boto3" / path.name)
                    ),
                    files,
                )
            )


def _measured(function: object, arguments: tuple[object, ...], connection: object) -> None:
    began = time.monotonic()
    function(*arguments)  # type: ignore[operator]
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    connection.send((seconds, peak))  # type: ignore[attr-defined]


def measured(function: object, *arguments: object) -> tuple[float, float]:
    """Return seconds and peak bytes of a call in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours_end, theirs = context.Pipe()
    process = context.Process(target=_measured, args=(function, arguments, theirs))
    process.start()
    found: tuple[float, float] = ours_end.recv()
    process.join()
    return found


def main() -> None:
    """Print MB/s of both, their ratio, and the memory of ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--shard-megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    count = round(arguments.gigabytes * 1000 / arguments.shard_megabytes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / f"train-{number:05}.tfrecord" for number in range(count)]
        for path in files:
            path.write_bytes(os.urandom(arguments.shard_megabytes * 1_000_000))
            (folder / f"{path.name}.sha256").write_text(file_sha256(path))
        megabytes = count * arguments.shard_megabytes
        stack = Stack(folder / "stack")
        stack.start_s3(free_ports(1)[0])
        os.environ.update(stack.environment())
        try:
            ratios: dict[str, list[float]] = {"up": [], "down": []}
            for _ in range(arguments.rounds):
                prefixes = {side: f"{side.__name__}-{uuid.uuid4().hex}" for side in (boto3s, ours)}
                for direction, kept in ratios.items():
                    seconds, peaks = {}, {}
                    for side in (boto3s, ours):
                        shutil.rmtree(folder / "staging", ignore_errors=True)
                        shutil.rmtree(folder / "boto3", ignore_errors=True)
                        seconds[side], peaks[side] = measured(side, direction, files, prefixes[side], folder)
                    kept.append(seconds[boto3s] / seconds[ours])
                    print(
                        f"{direction:<5} boto3 {megabytes / seconds[boto3s]:6.0f} MB/s, "
                        f"hemaflow {megabytes / seconds[ours]:6.0f} MB/s, {100 * kept[-1]:.0f} %; "
                        f"memory {peaks[boto3s] / 1e6:.0f} and {peaks[ours] / 1e6:.0f} MB",
                        flush=True,
                    )
            for direction, kept in ratios.items():
                print(f"{direction:<5} median {100 * statistics.median(kept):.0f} % of boto3's")
        finally:
            stack.down()


if __name__ == "__main__":
    main()
