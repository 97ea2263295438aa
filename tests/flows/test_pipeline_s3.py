"""The pipeline over a real S3 server: one run, killed twice, finished by three machines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.commands import (
    SMALL,
    Whole,
    digests,
    fact,
    gone,
    marked,
    needs_proc,
    optimizer_steps,
    run,
    start,
    until,
)
from helpers.proxy import BUSY, misbehaving
from hemaflow.flows.runs.find import find_run
from hemaflow.infra.store.open import open_store


def machine(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """The environment of a machine that has nothing on its disk."""
    folder.mkdir()
    return {**environment, "HOME": str(folder), "HEMAFLOW_STAGING_DIR": str(folder / "staging")}


@needs_proc
def test_a_run_is_finished_by_machines_that_share_only_the_store(
    whole: Whole,
    environment: dict[str, str],
    s3_environment: dict[str, str],
    s3_url: str,
    cells: str,
    tmp_path: Path,
) -> None:
    """Two are killed, one while it writes shards, one while it trains, and a tenth of requests is refused."""
    own_cells = tmp_path / "cells"
    shutil.copytree(cells, own_cells)
    store = open_store(s3_url)
    with misbehaving(s3_environment["AWS_ENDPOINT_URL_S3"]) as (proxy, address):
        proxy.fault, proxy.share = BUSY, 0.1
        remote = {**environment, **s3_environment, "AWS_ENDPOINT_URL_S3": address}

        def parts() -> list[str]:
            return [name for name in store.list("stages/augment/") if "/parts/" in name]

        first, living = marked(machine(remote, tmp_path / "first"))
        process = start(first, "run", "--store", s3_url, "--data", str(own_cells), *SMALL)
        until(lambda: len(parts()) >= 2, process)
        process.kill()
        process.communicate()
        assert gone(living)
        kept = len(parts())
        killed = find_run(store)
        assert killed.status == "running"  # nobody was left to say otherwise
        begun = killed.run
        shutil.rmtree(own_cells)

        second, living = marked(machine(remote, tmp_path / "second"))
        process = start(second, "run", "--store", s3_url, "--of", begun)
        until(lambda: optimizer_steps(store) > 0, process)
        process.kill()
        process.communicate()
        assert gone(living)
        [shards] = [manifest for manifest in store.list("stages/augment/") if "/manifest.json" in manifest]
        assert 2 <= kept < len([name for name in store.list("stages/augment/") if "train-" in name]), shards
        steps = optimizer_steps(store)

        proxy.share = 0.0
        proxy.puts.clear()
        done = run(machine(remote, tmp_path / "third"), store, "--of", begun, "--until", "train")
    assert done.states == "--r", done.err
    expected = digests(whole.store, whole.done)
    assert digests(store, done) == {stage: expected[stage] for stage in ("ingest", "augment", "train")}
    epochs, total = fact(store, done, "train", "epochs"), fact(store, done, "train", "optimizer_steps")
    assert 0 < steps < total
    assert proxy.puts["checkpoint.npz"] == epochs - steps * epochs // total
    assert proxy.faults > 2  # some 90 requests, a tenth of them refused
    assert not (tmp_path / "third" / ".hemaflow").exists()


@pytest.mark.parametrize("arguments", [["run"], ["plan"], ["runs"], ["verify"]])
def test_a_store_that_is_away_is_one_clear_error(
    environment: dict[str, str], s3_environment: dict[str, str], arguments: list[str]
) -> None:
    nowhere = {
        **environment,
        **s3_environment,
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "1",
    }
    process = start(nowhere, *arguments, "--store", "s3://bucket/prefix")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err.startswith("Error: The store cannot be reached: EndpointConnectionError.")
    assert "127.0.0.1" not in err
    assert "Traceback" not in err
