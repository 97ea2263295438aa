"""What a run that reuses everything asks of a store in S3, counted on the way to a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from helpers.proxy import misbehaving
from helpers.results import NAMES, Silent, make, report
from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.config.stages import STAGE_NAMES
from hemaflow.flows.engine.open import open_engine
from hemaflow.flows.engine.run import Run
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.open import open_store

SHARDS = 60
REPORT_REQUESTS = 8
"""Most requests to find the report and to write the page of the run."""


def test_a_reused_run_makes_three_requests_a_stage_and_one_an_object(
    s3_url: str, s3_environment: dict[str, str]
) -> None:
    store = open_store(s3_url)
    names = {**NAMES, "augment": [f"train-{number:05}-of-{SHARDS:05}.tfrecord" for number in range(SHARDS)]}
    request = RunRequest(store=s3_url)
    own = Run(request, Silent(), Settings(), open_engine(request, Settings()))
    with own.recorded():
        for stage in STAGE_NAMES:
            with own.decided(stage) as decision:
                own.finish(decision, make(stage, decision.draft(store), names=names[stage]))
        report(own)
    num_objects = sum(len(named) for named in names.values())
    with misbehaving(s3_environment["AWS_ENDPOINT_URL_S3"]) as (proxy, address):
        done = subprocess.run(
            [sys.executable, "-m", "hemaflow", "run", "--store", s3_url, "--json"],
            env={**os.environ, "AWS_ENDPOINT_URL_S3": address},
            capture_output=True,
            text=True,
            check=True,
        )
        requests = proxy.requests
    assert {stage["state"] for stage in json.loads(done.stdout)["stages"]} == {"reused"}
    assert num_objects <= requests["HEAD"] <= num_objects + REPORT_REQUESTS  # every object is checked
    assert requests.total() <= num_objects + 3 * len(STAGE_NAMES) + REPORT_REQUESTS
    for secret in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL_S3"):
        for name in store.list(""):
            assert s3_environment[secret].encode() not in store.get(name)
        assert s3_environment[secret] not in done.stdout + done.stderr
