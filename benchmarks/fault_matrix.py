"""Runs the pipeline against S3 while requests fail in every way, and says whether anything came out wrong.

    python benchmarks/fault_matrix.py [--share 0.1] [--faults 'reset' '503' …]

For each fault: a run from nothing and the same again, through a proxy that has that share of the requests
meet it on their way to a real server. What must come out are the manifests of an undisturbed run, byte for
byte; the second run must reuse every stage. Then each fault on every request, and a server that ignores
conditional writes: the run must end with an error that says so, and leave no result.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from small_runs import Done, manifest, run, unaccounted

from hemaflow.flows.config.stages import STAGE_NAMES
from hemaflow.flows.runs.upkeep import collect_garbage, verify
from hemaflow.infra.deploy.stack import BUCKET, Stack, free_ports
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.store.open import open_store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers.proxy import ALTERED, FAULTS, SLOW, misbehaving

TIMEOUT_SECONDS = 3.0
HARMLESS = (SLOW, ALTERED)
"""Nothing fails by slowness alone, and a new store has nothing to read that could be altered."""


class Bench:
    """The servers and the undisturbed run that all others are held against."""

    def __init__(self, folder: Path) -> None:
        self.stack = Stack(folder / "stack")
        self.stack.start_s3(free_ports(1)[0])
        self.stack.start_prefect(free_ports(1)[0])
        os.environ.update(self.stack.environment())
        self.folder = folder
        reference = LocalStore(folder / "reference")
        run(reference, environment={})
        self.digests = {stage: getattr(manifest(reference, stage), "digest", "") for stage in STAGE_NAMES}

    def disturbed(self, times: int, **misbehaviour: object) -> tuple[Store, list[Done], str]:
        """Run the pipeline that often in a new store behind a proxy; and count what was struck."""
        store = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
        with misbehaving(os.environ["AWS_ENDPOINT_URL_S3"]) as (proxy, address):
            proxy.stall_seconds = TIMEOUT_SECONDS + 1
            for name, value in misbehaviour.items():
                setattr(proxy, name, value)
            environment = {
                "AWS_ENDPOINT_URL_S3": address,
                "HEMAFLOW_S3_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
                # A folder of its own, and no room in it: what was sent is fetched again.
                "HEMAFLOW_STAGING_DIR": str(self.folder / uuid.uuid4().hex),
                "HEMAFLOW_STAGING_BYTES": "0",
            }
            done = [run(store, environment=environment) for _ in range(times)]
            return store, done, f"{proxy.faults} of {proxy.requests.total()}"

    def problems(self, store: Store, done: Iterable[Done]) -> list[str]:
        """Return what is wrong with two runs that should have come out as if nothing had happened."""
        found = []
        for which, ended in enumerate(done):
            if ended.code:
                found.append(f"run {which + 1} ended with {ended.code}: {ended.err.strip()[-300:]}")
                continue
            states = Counter(stage["state"] for stage in json.loads(ended.out)["stages"])
            expected = {"reused" if which else "ran": len(STAGE_NAMES) + 1}  # and the report
            if states != expected:
                found.append(f"run {which + 1}: {dict(states)}")
        for stage, digest in self.digests.items():
            if getattr(manifest(store, stage), "digest", None) != digest:
                found.append(f"another {stage}")
        if damage := verify(store, deep=True)[0]:
            found.append(f"damaged: {damage[0].problem}")
        collect_garbage(store, grace_seconds=-60.0)
        if left := unaccounted(store):
            found.append(f"{len(left)} objects left: {left[0]}")
        return found


def refusal(store: Store, ended: Done) -> tuple[list[str], str]:
    """Return what is wrong with how a run ended that could not but fail, and what it said."""
    said = next((line for line in ended.err.splitlines() if line.startswith("Error:")), "")
    found = []
    if ended.code != 1 or not said or "Traceback" in ended.err:
        found.append(f"ended with {ended.code}: {ended.err.strip()[-300:]}")
    if any(name.endswith("/manifest.json") for name in store.list("stages/")):
        found.append("left a result")
    return found, said


def main() -> int:
    """Print a row for each fault; return 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--share", type=float, default=0.1, help="of the requests that fail")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    arguments = parser.parse_args()
    share = arguments.share
    certain = [fault for fault in arguments.faults if fault not in HARMLESS]
    rows: list[tuple[str, int, dict[str, object]]] = [
        *((f"{share:.0%} {fault}", 2, {"fault": fault, "share": share}) for fault in arguments.faults),
        *((f"100% {fault}", 1, {"fault": fault, "share": 1.0}) for fault in certain),
        ("ignored conditions", 1, {"ignores_conditions": True}),
    ]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        try:
            print(f"{'requests':<20} {'struck':>12} {'s':>6}  result")
            for title, times, misbehaviour in rows:
                began = time.monotonic()
                store, done, struck = bench.disturbed(times, **misbehaviour)
                seconds = time.monotonic() - began
                if times == 2:
                    problems, right = bench.problems(store, done), "the same manifests; then all reused"
                else:
                    problems, right = refusal(store, done[0])
                wrong += bool(problems)
                print(f"{title:<20} {struck:>12} {seconds:>6.0f}  {'; '.join(problems) or right}", flush=True)
        finally:
            bench.stack.down()
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
