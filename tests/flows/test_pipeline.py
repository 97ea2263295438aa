"""The whole pipeline by the command itself, in processes of its own, on drawn cells; and what kills leave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from helpers.commands import (
    COMMAND_SECONDS,
    NUM_SHARDS,
    SMALL,
    STAGES,
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
from hemaflow.flows.runs.find import find_run
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.sources.sample_cells import draw_cell

pytestmark = pytest.mark.slow


def test_one_command_gives_a_verified_submission_and_a_report(whole: Whole) -> None:
    done = whole.done
    assert done.code == 0, done.err
    assert done.document["status"] == "completed"
    assert [stage["stage"] for stage in done.document["stages"]] == STAGES
    assert done.states == "rrrrrrr"
    mixes = {f"{split}{mix}" for split in ("val", "test") for mix in ("", "_heavy_mix")}
    corrupted = {"val_medmnistc", "test_medmnistc"}
    assert set(done.document["metrics"]) == mixes | {f"{entry}_tta" for entry in mixes} | corrupted | {"tta"}
    assert done.document["metrics"]["test"]["accuracy"] > 0.5
    with zipfile.ZipFile(done.document["submission"]) as archive:
        assert sorted(archive.namelist()) == ["model.keras", "model.py"]
    page = Path(done.document["report"]).read_text()
    assert "<img" in page
    assert done.document["run"] in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "Traceback" not in done.err


def test_the_process_of_a_run_loads_neither_tensorflow_nor_prefect(whole: Whole) -> None:
    assert whole.done.err.splitlines()[-1].split() == ["imported:"]


def test_the_same_again_is_reused_within_12_seconds(
    whole: Whole, environment: dict[str, str], cells: str
) -> None:
    started = time.monotonic()
    done = run(environment, whole.store, "--data", cells)
    assert time.monotonic() - started < 12
    assert done.states == "-------"
    assert done.document["metrics"] == whole.done.document["metrics"]
    assert done.document["submission"] == whole.done.document["submission"]
    assert done.err.splitlines()[-1].split() == ["imported:"]


def test_other_views_train_nothing_again(whole: Whole, served: dict[str, str], cells: str) -> None:
    done = run(served, whole.store, "--data", cells, "--set", "evaluate.tta=none", "--until", "evaluate")
    assert done.states == "---rrr"
    assert done.document["metrics"]["test"] == whole.done.document["metrics"]["test"]


def test_from_computes_again_and_gives_the_same(
    whole: Whole, environment: dict[str, str], cells: str
) -> None:
    done = run(environment, whole.store, "--data", cells, "--from", "augment", "--until", "augment")
    assert done.states == "-r"
    kept = digests(whole.store, whole.done)
    assert digests(whole.store, done) == {stage: kept[stage] for stage in ("ingest", "augment")}


def test_a_comparison_trains_only_what_is_new_averages_it_and_ranks(
    whole: Whole, environment: dict[str, str], cells: str, tmp_path: Path
) -> None:
    """The model of the first seed is there already; that of the second, and the mean of both, are new."""
    arguments = ["--data", cells, "--seeds", "2", "--ensembles", "--plot", str(tmp_path / "plot.png")]
    compare = start(environment, "compare", *arguments, "--store", str(whole.store.root), "--json", *SMALL)
    out, err = compare.communicate(timeout=COMMAND_SECONDS)
    assert compare.returncode == 0, err
    assert err.splitlines()[-1] == "imported:"  # no server is needed, and no Prefect
    members = {member["name"]: member for member in json.loads(out)}
    assert set(members) == {"demo", "demo, ensemble of 2"}
    trained, averaged = members["demo"], members["demo, ensemble of 2"]
    first, second = (find_run(whole.store, name) for name in trained["runs"])
    assert [stage.state for stage in first.stages] == ["reused"] * 7
    assert [stage.state for stage in second.stages] == ["reused"] * 2 + ["ran"] * 5
    assert trained["clean"]["accuracies"][0] == whole.done.document["metrics"]["test_tta"]["accuracy"]
    assert len(trained["clean"]["accuracies"]) == 2
    assert trained["num_parameters"] == fact(whole.store, whole.done, "train", "num_parameters")
    assert trained["images_per_second"] > 0
    assert averaged["num_parameters"] == 2 * trained["num_parameters"]
    assert averaged["submission_bytes"] > trained["submission_bytes"]
    assert averaged["clean"]["accuracy"] > 0.5
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_submission_is_checked_and_the_model_names_cells(
    whole: Whole, environment: dict[str, str], tmp_path: Path
) -> None:
    from PIL import Image

    for label, name in enumerate(("basophil", "eosinophil", "erythroblast")):
        (tmp_path / "cells" / name).mkdir(parents=True)
        for index in range(5):
            Image.fromarray(draw_cell(label, 100 + index)).save(tmp_path / "cells" / name / f"{index}.png")
    zip_path, others = str(whole.done.document["submission"]), str(tmp_path / "cells")
    check = start(environment, "check", zip_path, "--data", others, "--size", "32", "--json")
    out, err = check.communicate(timeout=200)
    assert check.returncode == 0, err
    card = json.loads(out)
    assert card["num_images"] == 15
    assert card["accuracy"] > 0.4  # of eight classes
    assert [row["class"] for row in card["per_class"]] == ["basophil", "eosinophil", "erythroblast"]
    files = sorted(str(path) for path in (tmp_path / "cells").rglob("*.png"))
    predict = start(environment, "predict", *files, "--store", str(whole.store.root), "--json")
    out, err = predict.communicate(timeout=200)
    assert predict.returncode == 0, err
    named = json.loads(out)
    right = [entry["top"][0]["class"] == Path(entry["image"]).parent.name for entry in named]
    assert sum(right) / 15 == pytest.approx(card["accuracy"])


# Signals: here SIGTERM and the keyboard's SIGINT, SIGKILL in test_pipeline_s3.py


def end(process: subprocess.Popen[str], sign: signal.Signals, store: LocalStore) -> None:
    """End a command by a signal, and see that it says so, in its record and by its exit code."""
    if sign == signal.SIGINT:
        os.killpg(process.pid, sign)  # as the keyboard does
    else:
        process.send_signal(sign)
    _, err = process.communicate(timeout=90)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[sign]
    assert find_run(store).status == "interrupted"
    assert "goes on from what is complete" in err
    assert "Traceback" not in err


@needs_proc
def test_a_run_that_is_terminated_loses_only_the_shards_under_way(
    whole: Whole, environment: dict[str, str], cells: str, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    own, living = marked({**environment, "HEMAFLOW_WORKERS": "2"})

    def parts() -> list[str]:
        return [name for name in store.list("stages/augment/") if "/parts/" in name]

    process = start(own, "run", "--store", str(store.root), "--data", cells, *SMALL)
    until(lambda: len(parts()) >= 3, process)
    end(process, signal.SIGTERM, store)
    assert gone(living)
    assert not [name for name in store.list("stages/augment/") if name.endswith("manifest.json")]
    kept = {Path(name).name.removesuffix(".json") for name in parts()}
    written = {
        path.name: path.stat().st_mtime_ns for path in store.root.rglob("*.tfrecord") if path.name in kept
    }
    assert 3 <= len(written) < NUM_SHARDS
    done = run(environment, store, "--data", cells, "--until", "augment")
    assert done.states == "-r"
    whole_digests = digests(whole.store, whole.done)
    assert digests(store, done)["augment"] == whole_digests["augment"]
    for path in store.root.rglob("*.tfrecord"):
        if path.name in written:
            assert path.stat().st_mtime_ns == written[path.name]
    assert parts() == []


@needs_proc
def test_a_training_that_is_interrupted_takes_the_steps_of_an_uncut_one(
    whole: Whole, environment: dict[str, str], cells: str, tmp_path: Path
) -> None:
    """Interrupted at the keyboard: no worker and no Prefect server of its own is left running."""
    store = LocalStore(tmp_path / "store")
    for stage in ("ingest", "augment"):
        shutil.copytree(whole.store.root / "stages" / stage, store.root / "stages" / stage)
    own, living = marked(environment)
    process = start(own, "run", "--store", str(store.root), "--data", cells, *SMALL)
    until(lambda: optimizer_steps(store) > 0, process)
    seen = optimizer_steps(store)  # those of whole epochs
    end(process, signal.SIGINT, store)
    assert gone(living)
    total = fact(whole.store, whole.done, "train", "optimizer_steps")
    assert seen < optimizer_steps(store) < total  # the step under way was kept, too
    done = run(environment, store, "--data", cells, "--until", "train")
    assert done.states == "--r"
    assert fact(store, done, "train", "optimizer_steps") == total
    assert fact(store, done, "train", "epochs") == 6
