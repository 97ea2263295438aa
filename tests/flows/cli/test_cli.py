from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import hemaflow as api
from helpers.facts import ingest_facts
from helpers.pictures import inputs
from helpers.results import recorded
from hemaflow.flows.cli import main
from hemaflow.flows.config.recipes import RECIPES
from hemaflow.flows.runs.record import RunRecord
from hemaflow.infra import stat_cache
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.ingest.findings import LIST, encode_findings
from hemaflow.tasks.model.backbones import BACKBONES
from hemaflow.tasks.records.index import INDEX, Row, encode_index
from hemaflow.tasks.sources.base import Finding


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    former = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, former)


@pytest.fixture
def hemaflow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> object:
    """The command, in this process, in an empty folder."""

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["hemaflow", *arguments])
        code = 0
        try:
            main.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    monkeypatch.chdir(tmp_path)
    return call


def bad_npz(folder: Path) -> str:
    np.savez(folder / "bad.npz", images=np.zeros((2, 4, 4, 3), np.uint8))
    return str(folder / "bad.npz")


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "demmo"], "Did you mean 'demo'?"),
        (["--data", "no/such/folder"], "There is no such data source."),
        (["--data", "NPZ"], "The file holds no 'labels'."),
        (["--set", "train.epochs"], "A change cannot be read."),
        (["--set", "train.epochs=3"], "train has no field 'epochs'."),
        (["--set", "train.batch_size=no"], "valid integer"),
        (["--set", 'augment.layers=[{"name":"RandomFlop"}]'], "Did you mean 'RandomFlip'?"),
        (["--set", 'augment.layers=[{"name":"RandomFlip","factors":{"mod":"x"}}]'], "Did you mean 'mode'?"),
        (["--from", "trian"], "Did you mean 'train'?"),
        (["--until", "evalute"], "Did you mean 'evaluate'?"),
        (["--from", "train"], "Cannot start from 'train'"),
        (["--from", "submit", "--until", "train"], "Nothing is left to do"),
        (["--set", "train.initial_weights=absent.h5"], "The initial weights cannot be used."),
        (["--store", "ftp://host/path"], "Expected: a local folder"),
        (["--colour", "red"], "No such option: --colour"),
    ],
)
def test_a_mistake_is_told_in_one_message_and_nothing_is_written(
    hemaflow: object, tmp_path: Path, command: str, arguments: list[str], message: str
) -> None:
    npz = bad_npz(tmp_path)
    said = hemaflow(command, *(npz if argument == "NPZ" else argument for argument in arguments))  # type: ignore[operator]
    assert said.code == 2
    assert message in said.err.replace("\n", " ").replace("  ", " ") or message in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["bad.npz"]


@pytest.mark.parametrize("command", [["show"], ["report"], ["predict", "cell.png"], ["show", "2026"]])
def test_an_empty_store_says_what_to_do(hemaflow: object, command: list[str]) -> None:
    said = hemaflow(*command)  # type: ignore[operator]
    assert said.code == 2
    assert "hemaflow run" in said.err


def test_a_wrong_setting_is_a_mistake(hemaflow: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEMAFLOW_WORKERS", "two")
    said = hemaflow("plan")  # type: ignore[operator]
    assert said.code == 2
    assert "Received: HEMAFLOW_WORKERS=two" in said.err


def test_plan_says_what_would_run_and_why(hemaflow: object, tmp_path: Path) -> None:
    said = hemaflow("plan")  # type: ignore[operator]
    assert said.code == 0
    assert [line.split()[:2] for line in said.out.splitlines()[1:]] == [
        [stage, "run"] for stage in ("ingest", "augment", "train", "predict", "evaluate", "submit", "report")
    ]
    assert "never built in this store" in said.out
    document = json.loads(hemaflow("plan", "--json").out)  # type: ignore[operator]
    assert [stage["state"] for stage in document["stages"]] == ["run"] * 6
    assert list(tmp_path.iterdir()) == []


def test_files_that_look_unchanged_are_read_again_where_that_is_asked_for(
    hemaflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEMAFLOW_STAT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(stat_cache, "RACY_NANOSECONDS", 0)
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "1.png").write_bytes(b"a picture")
    time.sleep(0.03)  # Linux counts the times of files in steps of 10 ms at most
    read: list[str] = []
    hashed = stat_cache._hashed
    monkeypatch.setattr(stat_cache, "_hashed", lambda path, *rest: read.append(path) or hashed(path, *rest))
    for arguments, num_read in (((), 1), ((), 1), (("--rehash",), 2), ((), 2)):
        assert hemaflow("plan", "--data", str(tmp_path / "data"), *arguments).code == 0
        assert len(read) == num_read
    assert len(api.plan(tmp_path / "data", rehash=True)) == 6
    assert len(read) == 3


def test_recipes_are_listed_and_shown(hemaflow: object) -> None:
    listed = hemaflow("recipes").out  # type: ignore[operator]
    assert {line.split()[0] for line in listed.splitlines()} == set(RECIPES)
    for name in RECIPES:
        shown = hemaflow("recipes", name)  # type: ignore[operator]
        assert shown.code == 0
        assert "fine_tuning:" in shown.out
    assert hemaflow("recipes", "laptob").code == 2  # type: ignore[operator]


def test_the_end_of_a_run_tells_of_clean_and_of_spoiled_images(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def entry(accuracy: float, **more: str) -> dict[str, object]:
        interval = [accuracy - 0.1, accuracy + 0.05]
        return {"num_examples": 10, "accuracy": accuracy, "intervals": {"accuracy": interval}, **more}

    measured = {
        "test": entry(0.9),
        "test_heavy": entry(0.6),
        "test_heavy_tta": entry(0.625),
        "test_medmnistc": entry(0.75, worst_corruption="stain_deposit"),
    }
    record = RunRecord(run="r", started="", data="sample", recipe="demo", metrics=measured)
    store = LocalStore(tmp_path)
    main._print_run(record, store, False)
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "heavy mix accuracy 0.6000 (95 % interval 0.5000 to 0.6500)" in said
    assert "heavy mix, TTA accuracy 0.6250 (95 % interval 0.5250 to 0.6750)" in said
    assert any(line.startswith("MedMNIST-C accuracy 0.7500") for line in said)
    assert " ".join(said).endswith("worst stain_deposit")
    main._print_run(record, store, True)
    document = json.loads(capsys.readouterr().out)
    assert document["metrics"]["test_heavy"]["accuracy"] == 0.6
    assert document["metrics"]["test_medmnistc"]["worst_corruption"] == "stain_deposit"
    assert document["metrics"]["val"] == {}


def test_backbones_are_listed_as_they_are_registered(hemaflow: object) -> None:
    rows = json.loads(hemaflow("backbones", "--json").out)  # type: ignore[operator]
    assert [row["name"] for row in rows] == list(BACKBONES)
    assert [row["num_parameters"] for row in rows] == [row.num_parameters for row in BACKBONES.values()]
    listed = hemaflow("backbones").out.splitlines()  # type: ignore[operator]
    assert [line.split()[0] for line in listed[1:]] == list(BACKBONES)
    smallest = next(line for line in listed if line.startswith("mobilenetv2-0.35"))
    assert "0.41 M" in smallest
    assert "block_13_expand" in smallest


def test_runs_are_listed_and_found_by_a_part_of_their_id(hemaflow: object, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / ".hemaflow")
    for name, status in (("20260101-000000-aaaa", "completed"), ("20260102-000000-bbbb", "failed")):
        RunRecord(run=name, status=status, started="", data="sample", recipe="demo").save(store)  # type: ignore[arg-type]
    listed = hemaflow("runs").out  # type: ignore[operator]
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [
        ["20260101-000000-aaaa", "completed"],
        ["20260102-000000-bbbb", "failed"],
    ]
    assert json.loads(hemaflow("runs", "--json").out)[1]["status"] == "failed"  # type: ignore[operator]
    assert json.loads(hemaflow("show", "aaaa", "--json").out)["run"] == "20260101-000000-aaaa"  # type: ignore[operator]
    assert json.loads(hemaflow("show", "--json").out)["run"] == "20260102-000000-bbbb"  # type: ignore[operator]
    assert "More than one run" in hemaflow("show", "2026").err  # type: ignore[operator]
    assert "has no report" in hemaflow("report").err  # type: ignore[operator]


def test_a_recipe_is_printed_as_a_file_that_gives_the_same_plan(hemaflow: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(hemaflow("recipes", "cnn")[1])
    store = str(tmp_path / "store")
    named = hemaflow("plan", "--data", "sample", "--recipe", "cnn", "--store", store, "--json")
    from_file = hemaflow("plan", "--data", "sample", "--recipe", str(path), "--store", store, "--json")
    assert from_file[0] == 0
    assert [s["key"] for s in json.loads(from_file[1])["stages"]] == [
        s["key"] for s in json.loads(named[1])["stages"]
    ]
    path.write_text(path.read_text().replace("batch_size", "batch_sise", 1))
    code, _, errors = hemaflow("plan", "--recipe", str(path), "--store", store)
    assert code == 2
    assert "batch_sise" in errors


@pytest.mark.parametrize(
    "text",
    ["", "- a list\n", "recipe: demo\n", "config: 3\n", "data: [\n", "\xff", "!!python/object:os.system {}"],
)
def test_what_is_no_recipe_file_is_refused(hemaflow: Command, tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="latin-1")
    code, _, errors = hemaflow("plan", "--recipe", str(path), "--store", str(tmp_path / "store"))
    assert code == 2
    assert "recipe file" in errors
    assert "hemaflow recipes" in errors
    assert hemaflow("plan", "--recipe", str(tmp_path / "absent.yaml"))[0] == 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("epochs=5", "train.transfer.epochs or train.fine_tuning.epochs"),
        ("train.epochs=5", "train.transfer.epochs or train.fine_tuning.epochs"),
        ("tta=none", "evaluate.tta"),
        ("ingest.batch_size=3", "train.batch_size"),
    ],
)
def test_a_shortened_field_is_answered_with_the_right_one(
    hemaflow: Command, tmp_path: Path, typed: str, meant: str
) -> None:
    code, _, errors = hemaflow("plan", "--set", typed, "--store", str(tmp_path))
    assert code == 2
    assert meant in errors


def test_fields_layers_and_views_are_listed(hemaflow: Command) -> None:
    fields = {row["path"]: row for row in json.loads(hemaflow("fields", "--json")[1])}
    assert fields["train.optimizer"]["type"] == "adamw | adam | lion | sgd"
    assert fields["train.label_smoothing"]["range"] == "at least 0.0, at most 1.0"
    assert fields["train.focal_gamma"]["range"] == "at least 0, only with loss=focal"
    assert fields["train.fine_tuning.epochs"]["default"] == 8
    assert [row for row in fields.values() if not row["meaning"]] == []
    assert json.loads(hemaflow("fields", "submit", "--json")[1])[0]["path"].startswith("submit.")
    assert hemaflow("fields", "predict")[1] == hemaflow("fields", "evaluate")[1]
    assert hemaflow("fields", "trian")[0] == 2
    layers = json.loads(hemaflow("layers", "--json")[1])
    assert {row["field"] for row in layers} == {"augment.layers", "train.online"}
    assert "identity" in json.loads(hemaflow("views", "--json")[1])["views"]
    for command in ("fields", "layers", "views"):
        assert len(hemaflow(command)[1].splitlines()) > 5


def test_the_index_and_the_findings_of_a_run_are_printed_as_csv(hemaflow: Command, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    draft = Draft(store, inputs("ingest"))
    draft.put(INDEX, encode_index([Row("a/1.png", "0f" * 32, 1, "val", "a/1.png")]))
    draft.put(LIST, encode_findings([Finding("link", ["b", "c,d"], "left out", "it leads nowhere")]))
    manifest = draft.commit(**ingest_facts(["a", "b"], 24, {"train": 0, "val": 1, "test": 0}))
    recorded(store, "20260131-094500-aaaa", ingest=manifest)
    assert hemaflow("index", "--store", store.url).out == (
        f"id,sha256,label,split,source\na/1.png,{'0f' * 32},1,val,a/1.png\n"
    )
    assert hemaflow("findings", "aaaa", "--store", store.url).out == (
        'kind,item,action,reason\nlink,b,left out,it leads nowhere\nlink,"c,d",left out,it leads nowhere\n'
    )
