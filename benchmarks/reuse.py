"""How long it takes to see that nothing is to be done, and what would be: against S3, and with many runs.

    python benchmarks/reuse.py [--shards 60] [--runs 200]

Prints the seconds of `hemaflow run` where every stage is reused, and of `hemaflow plan` where train would run
and the store knows that many runs, each as a fresh process, against a real S3 server and a local folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.config.stages import STAGE_NAMES
from hemaflow.flows.engine.observer import LogObserver
from hemaflow.flows.engine.open import open_engine
from hemaflow.flows.engine.report import report_result, write_report
from hemaflow.flows.engine.run import Run
from hemaflow.infra.deploy.stack import BUCKET, Stack, free_ports
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.open import open_store
from hemaflow.tasks.report.run_details import PAGE_NAME, PARENTS, RUN_DETAILS, RUN_LINE

CHECK = """
import sys
from hemaflow.flows.cli.main import main
try:
    main()
finally:
    print("loaded:", *sorted({"tensorflow", "keras", "prefect"} & sys.modules.keys()), file=sys.stderr)
"""


def complete(url: str, shards: int, *, seed: int = 0) -> None:
    """Leave a complete run whose results are made up."""
    quiet = logging.getLogger("quiet")
    request = RunRequest(store=url, changes=(f"train.seed={seed}",))
    own = Run(request, LogObserver(quiet), Settings(), open_engine(request, Settings()))
    with own.recorded():
        for stage in STAGE_NAMES:
            with own.decided(stage) as decision:
                if decision.state == "reuse":
                    own.finish(decision)
                    continue
                draft = decision.draft(own.store)
                count = shards if stage == "augment" else 2
                names = [f"train-{number:05}-of-{count:05}.tfrecord" for number in range(count)]
                for name in [*names, "submission.zip"]:
                    draft.put(name, f"{name} {seed}".encode())
                draft.put("metrics.json", json.dumps({"seed": seed}).encode())
                own.finish(decision, draft.commit(seed=seed))
        report = Draft(own.store, report_result({name: own.manifests[name] for name in PARENTS}).inputs())
        report.put(PAGE_NAME, f"{RUN_LINE}{seed}{RUN_DETAILS}".encode())
        report.commit()
        write_report(own.store, own.record, own.manifests, own.worker, own.settings)


def timed(arguments: Sequence[str]) -> str:
    """Run the command in a fresh process; return its seconds and what heavy libraries it loaded."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CHECK, *arguments], capture_output=True, text=True, check=True, env=os.environ
    )
    loaded = done.stderr.rpartition("loaded:")[2].strip() or "none of TensorFlow, Keras, Prefect"
    return f"{time.monotonic() - began:5.2f} s, {loaded} loaded"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, default=60)
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "stack")
        stack.start_s3(free_ports(1)[0])
        os.environ.update(stack.environment() | {"HEMAFLOW_STAGING_DIR": f"{folder}/staging"})
        try:
            for kind, url in (("local", f"{folder}/store"), ("s3", f"s3://{BUCKET}/bench")):
                for seed in range(arguments.runs):
                    complete(url, arguments.shards, seed=seed)
                objects = sum(1 for _ in open_store(url).list(""))
                print(f"{kind}: {arguments.runs} runs, {arguments.shards} shards, {objects} objects")
                for title, command in (
                    ("run, all reused", ["run", "--set", "train.seed=0"]),
                    ("plan, train runs", ["plan", "--set", "train.batch_size=7"]),
                    ("plan, all runs", ["plan", "--set", "ingest.seed=5"]),
                ):
                    print(f"  {title:<17} {timed([*command, '--store', url])}", flush=True)
        finally:
            stack.down()


if __name__ == "__main__":
    main()
