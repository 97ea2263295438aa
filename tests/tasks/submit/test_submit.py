"""The submission: packed the same each time, proven alone, refused where it differs."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.absent import run_without
from helpers.facts import evaluate_facts, ingest_facts, train_facts
from hemaflow.infra.errors import DataError, StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import KeyInputs, Manifest, load_manifest
from hemaflow.infra.store.base import file_sha256
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.records.predictions import read_predictions
from hemaflow.tasks.records.schema import encode, one_hot, shard_name
from hemaflow.tasks.records.tfrecord import write_records
from hemaflow.tasks.submit import package
from hemaflow.tasks.submit.config import SubmitConfig
from hemaflow.tasks.submit.stage import run

SIZE_PIXELS = 16
CLASSES = ["<b>red</b>", "green 'cell'", "blue"]
VIEWS = ("identity", "saturation-4")
NUM_TEST = 37
BATCH_SIZE = 8


def inputs(stage: str, **config: Any) -> KeyInputs:
    return KeyInputs(stage=stage, config=config, parents={}, code={}, libraries={})


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """uint8[NUM_TEST, 16, 16, 3], each with a colour that leads."""
    random = np.random.default_rng(5)
    drawn = random.integers(0, 160, (NUM_TEST, SIZE_PIXELS, SIZE_PIXELS, 3), np.uint8)
    for i in range(NUM_TEST):
        drawn[i, :, :, i % 3] += 60
    return drawn


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that names the leading colour, nearly."""
    import keras

    inner = keras.Input((SIZE_PIXELS, SIZE_PIXELS, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inner))
    dense = keras.layers.Dense(3, activation="softmax")
    model = keras.Model(inner, dense(pooled))
    dense.set_weights([9 * np.eye(3, dtype=np.float32) - 1, np.zeros(3, np.float32)])
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


def predictions_csv(model_path: Path, images: NDArray[np.uint8], mislabelled: int = 0) -> bytes:
    import keras

    from hemaflow.tasks.inference.views import predict

    model = keras.models.load_model(model_path, compile=False)
    plain = predict(model, images, ("identity",), BATCH_SIZE)
    averaged = predict(model, images, VIEWS, BATCH_SIZE)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = range(len(CLASSES))
    writer.writerow(["id", "label", *(f"prob_{i}" for i in columns), *(f"tta_{i}" for i in columns)])
    for i in range(len(images)):
        label = (i + (i < mislabelled)) % 3
        writer.writerow([f"cell-{i}", label, *plain[i].tolist(), *averaged[i].tolist()])
    return text.getvalue().encode()


@pytest.fixture
def parents(store: LocalStore, tmp_path: Path, model_path: Path, images: NDArray[np.uint8]) -> Parents:
    """Complete results of ingest, train and evaluate."""
    ingest = Draft(store, inputs("ingest"))
    for shard, rows in enumerate((range(20), range(20, NUM_TEST))):
        name = shard_name("test", shard, 2)
        records = (encode(f"cell-{i}", images[i], one_hot(i % 3, 3)) for i in rows)
        ingest.put_file(name, tmp_path / name, num_records=write_records(tmp_path / name, records))
    facts = ingest_facts(CLASSES, SIZE_PIXELS, {"test": NUM_TEST})
    train = Draft(store, inputs("train"))
    train.put_file("model.keras", model_path)
    evaluate = Draft(store, inputs("evaluate", batch_size=BATCH_SIZE))
    evaluate.put("predictions-test.csv", predictions_csv(model_path, images))
    evaluate.put("predictions-val.csv", predictions_csv(model_path, images, mislabelled=12))
    manifests: dict[str, Manifest] = {
        "ingest": ingest.commit(**facts),
        "train": train.commit(**train_facts()),
        "evaluate": evaluate.commit(**evaluate_facts(tta="flips", tta_views=list(VIEWS))),
    }
    return Parents(store, manifests)


PROBABILITIES = """
import numpy, sys
from importlib.util import module_from_spec, spec_from_file_location
images, *folders = sys.argv[1:]
for folder in folders:
    spec = spec_from_file_location(folder, f"{folder}/model.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    model, pictures = module.Model(), numpy.load(images)
    numpy.savez(f"{folder}.npz", labels=model.predict(pictures), probabilities=model.probabilities(pictures))
"""


SUBMITTING = """
import pickle, sys
from pathlib import Path
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.results.manifest import KeyInputs
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.submit.stage import SubmitConfig, run
root, manifests = sys.argv[1:]
store = LocalStore(Path(root))
inputs = KeyInputs(stage="submit", config={}, parents={}, code={}, libraries={})
config = SubmitConfig(calibrate=True)
made = run(Parents(store, pickle.loads(Path(manifests).read_bytes())), config, Draft(store, inputs))
print(made.facts["num_verified"])
"""


@pytest.mark.slow
def test_only_the_package_needs_keras(store: LocalStore, parents: Parents, tmp_path: Path) -> None:
    """It would take an accelerator's memory, and ten seconds."""
    (tmp_path / "manifests").write_bytes(pickle.dumps(parents.manifests))
    said = run_without("tensorflow keras", SUBMITTING, store.root, tmp_path / "manifests")
    assert int(said) == NUM_TEST


@pytest.mark.slow
def test_a_calibrated_submission_is_less_sure_and_names_the_same(
    store: LocalStore, parents: Parents, tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    """A third of val is wrong, and the model is sure of it all."""
    plain = run(parents, SubmitConfig(), Draft(store, inputs("submit", calibrate=False)))
    made = run(parents, SubmitConfig(calibrate=True), Draft(store, inputs("submit", calibrate=True)))
    verification = json.loads(made.read(store, "verification.json"))
    assert (
        verification["labels_sha256"] == json.loads(plain.read(store, "verification.json"))["labels_sha256"]
    )
    assert verification["temperature"] > 1.5
    assert set(verification["calibration"]) == {"before", "after"}
    for name, manifest in (("plain", plain), ("made", made)):
        (tmp_path / name).mkdir()
        package.unpack(manifest.path(store, "submission.zip"), tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", PROBABILITIES, images_file(tmp_path, images), "plain", "made"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = {name: np.load(tmp_path / f"{name}.npz") for name in ("plain", "made")}
    before, after = answers["plain"]["probabilities"], answers["made"]["probabilities"]
    assert after.dtype == np.float32
    assert np.allclose(after.sum(1), 1, atol=1e-6)
    assert (after.max(1) < before.max(1)).all()
    assert (answers["made"]["labels"] == before.argmax(1)).all()
    logits = np.log(before)
    expected = np.exp(logits / verification["temperature"])
    assert np.allclose(after, expected / expected.sum(1, keepdims=True), atol=1e-5)


@pytest.fixture
def runner_without_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner, but that it does not import Keras, for submissions that do without."""
    text, importing = Path(package.runner.__file__).read_text(), "    _import_keras()\n"
    assert text.count(importing) == 1
    (tmp_path / "runner.py").write_text(text.replace(importing, ""))
    monkeypatch.setattr(package.runner, "__file__", str(tmp_path / "runner.py"))


def images_file(folder: Path, images: NDArray[np.uint8]) -> Path:
    path = folder / "images.npy"
    np.save(path, images)
    return path


def zip_of(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("_py", ".py"), text)
    return path


@pytest.mark.slow
def test_submission_is_packed_verified_and_the_same_each_time(
    store: LocalStore, parents: Parents, model_path: Path, tmp_path: Path
) -> None:
    manifest = run(parents, SubmitConfig(), Draft(store, inputs("submit")))
    assert manifest.facts["num_verified"] == NUM_TEST
    assert manifest.facts["tta"] == list(VIEWS)
    assert manifest.facts["accuracy"] > 0.9
    verification = json.loads(manifest.read(store, "verification.json"))
    assert verification["views"] == list(VIEWS)
    assert {"python", "keras", "tensorflow", "numpy"} == set(verification["versions"])
    with zipfile.ZipFile(manifest.path(store, "submission.zip")) as archive:
        assert archive.namelist() == ["model.keras", "model.py"]
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        code = archive.read("model.py").decode()
    assert manifest.facts["size_bytes"] == manifest.object("submission.zip").size_bytes
    imports = ("from hemaflow", "import hemaflow")
    assert not any(line.lstrip().startswith(imports) for line in code.splitlines())
    touched = tmp_path / "touched.keras"
    touched.write_bytes(model_path.read_bytes())
    os.utime(touched, (1, 1))
    touched.chmod(0o600)
    package.pack(tmp_path / "again.zip", package.model_code(CLASSES, VIEWS, BATCH_SIZE), touched)
    assert file_sha256(tmp_path / "again.zip") == manifest.object("submission.zip").sha256


@pytest.mark.slow
def test_without_test_images_it_is_proven_on_val(
    store: LocalStore, model_path: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    def results(predictions: bytes) -> Parents:
        ingest = Draft(store, inputs("ingest", of=len(predictions)))
        shard = tmp_path / "shard"
        records = (encode(f"cell-{i}", image, one_hot(i % 3, 3)) for i, image in enumerate(images))
        num_records = write_records(shard, records)
        ingest.put_file(shard_name("val", 0, 1), shard, num_records=num_records)
        train = Draft(store, inputs("train", of=len(predictions)))
        train.put_file("model.keras", model_path)
        evaluate = Draft(store, inputs("evaluate", batch_size=BATCH_SIZE, of=len(predictions)))
        evaluate.put("predictions-test.csv", predictions_csv(model_path, images[:0]))
        evaluate.put("predictions-val.csv", predictions)
        made = {
            "ingest": ingest.commit(**ingest_facts(CLASSES, SIZE_PIXELS)),
            "train": train.commit(**train_facts()),
            "evaluate": evaluate.commit(**evaluate_facts(tta="flips", tta_views=list(VIEWS))),
        }
        return Parents(store, made)

    manifest = run(
        results(predictions_csv(model_path, images)), SubmitConfig(), Draft(store, inputs("submit"))
    )
    assert manifest.facts["num_verified"] == len(images)
    assert json.loads(manifest.read(store, "verification.json"))["split"] == "val"
    nothing = results(predictions_csv(model_path, images[:0]))
    with pytest.raises(DataError, match=r"neither test nor val images(.|\n)*put some images into test/"):
        run(nothing, SubmitConfig(), Draft(store, inputs("submit", of="nothing")))


@pytest.mark.slow
def test_submission_of_another_model_is_refused_and_nothing_committed(
    store: LocalStore, parents: Parents, tmp_path: Path
) -> None:
    import keras

    model = keras.models.load_model(parents["train"].path(store, "model.keras"), compile=False)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel[:, [1, 0, 2]], bias])
    model.save(tmp_path / "other.keras")
    train = Draft(store, inputs("train", other=True))
    train.put_file("model.keras", tmp_path / "other.keras")
    altered = Parents(store, {**parents.manifests, "train": train.commit(**train_facts())})
    draft = Draft(store, inputs("submit"))
    with pytest.raises(StageError, match=r"package and the report differ in \d+ of 37 predictions"):
        run(altered, SubmitConfig(tta=False), draft)
    assert load_manifest(store, "submit", draft.key) is None
    assert list(store.list("stages/submit/")) == []


@pytest.mark.slow
def test_predictions_of_another_split_are_refused(
    store: LocalStore, parents: Parents, model_path: Path
) -> None:
    evaluate = Draft(store, inputs("evaluate", batch_size=BATCH_SIZE, other=True))
    evaluate.put("predictions-test.csv", predictions_csv(model_path, np.zeros((3, 16, 16, 3), np.uint8)))
    manifest = evaluate.commit(**evaluate_facts())
    other = Parents(store, {**parents.manifests, "evaluate": manifest})
    with pytest.raises(StageError, match="not about this test split"):
        run(other, SubmitConfig(), Draft(store, inputs("submit")))


def test_predictions_are_read_by_column_names_of_any_class() -> None:
    table = b'id,label,prob_a,"prob_b,""c",tta_a,"tta_b,""c"\nx,1,0.6,0.4,0.2,0.8\n"y\nz",0,0.1,0.9,1,0\n'
    assert read_predictions(table, 2, tta=False).predicted.tolist() == [0, 1]
    assert read_predictions(table, 2, tta=True).predicted.tolist() == [1, 0]
    assert read_predictions(table, 2, tta=True).labels.tolist() == [1, 0]
    assert read_predictions(table, 2, tta=True).ids == ["x", "y\nz"]
    with pytest.raises(StageError, match="3 columns prob_"):
        read_predictions(table, 3, tta=False)


@pytest.fixture(scope="module")
def submitted_class(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The class Model of a submission's model.py, beside its weights."""
    folder = tmp_path_factory.mktemp("unpacked")
    code = package.model_code(CLASSES, VIEWS, BATCH_SIZE)
    (folder / "model.keras").write_bytes(model_path.read_bytes())
    (folder / "model.py").write_text(code, encoding="utf-8")
    namespace: dict[str, Any] = {"__file__": str(folder / "model.py"), "__name__": "model"}
    exec(compile(code, "model.py", "exec"), namespace)  # noqa: S102
    return namespace["Model"]


@pytest.mark.slow
def test_model_takes_uint8_float_lists_other_sizes_and_nothing(
    submitted_class: Any, images: NDArray[np.uint8]
) -> None:
    model = submitted_class()
    assert model.classes == tuple(CLASSES)
    labels = model.predict(images)
    assert labels.shape == (NUM_TEST,)
    assert labels.dtype == np.int64
    assert np.array_equal(model.predict(images.astype(np.float32)), labels)
    assert np.array_equal(model.predict(images[:3].tolist()), labels[:3])
    assert np.array_equal(model.predict(images.repeat(2, axis=1).repeat(2, axis=2)), labels)
    assert model.predict(np.zeros((0, SIZE_PIXELS, SIZE_PIXELS, 3), np.uint8)).shape == (0,)


@pytest.mark.parametrize("shape", [(16, 16, 3), (2, 16, 16), (2, 16, 16, 4), (2, 3, 16, 16), (2, 0, 16, 3)])
@pytest.mark.slow
def test_model_refuses_other_shapes(submitted_class: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"of shape \(n, H, W, 3\). Received: shape="):
        submitted_class().predict(np.zeros(shape, np.uint8))


@pytest.mark.slow
def test_model_refuses_what_is_no_number(submitted_class: Any) -> None:
    with pytest.raises(ValueError, match="no number"):
        submitted_class().predict(np.full((1, 16, 16, 3), np.nan, np.float32))


LABELS_ONLY = """
import os, sys
import numpy as np
class Model:
    def predict(self, X):
        for name in ("hemaflow", "hemaflow.infra.errors"):
            try:
                __import__(name)
            except ModuleNotFoundError:
                continue
            raise AssertionError("the project is within reach")
        assert os.listdir() == [], "the working folder is not empty"
        assert "HEMAFLOW_STORE" not in os.environ
        print("noise" * 1000)
        return X[:, 0, 0, 0].astype("int32") % 3
"""


@pytest.mark.slow
def test_runner_is_a_stranger_to_this_project(
    tmp_path: Path, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEMAFLOW_STORE", "elsewhere")
    monkeypatch.setenv("PYTHONPATH", str(Path(package.__file__).parents[3]))
    zip_path = zip_of(tmp_path / "s.zip", model_py=LABELS_ONLY)
    outcome = package.run_submission(zip_path, images_file(tmp_path, images), chunk_size=10)
    assert np.array_equal(outcome.labels, images[:, 0, 0, 0] % 3)


SLOW = """
import time

class Model:
    waits = [3.0, 0.1, 0.1]

    def predict(self, X):
        time.sleep(self.waits.pop(0))
        return X[:, 0, 0, 0].astype("int32")
"""


@pytest.mark.slow
@pytest.mark.usefixtures("runner_without_keras")
def test_speed_is_that_of_a_model_that_is_ready(tmp_path: Path) -> None:
    images = images_file(tmp_path, np.zeros((30, 16, 16, 3), np.uint8))
    zip_path = zip_of(tmp_path / "s.zip", model_py=SLOW)
    assert 15 < package.run_submission(zip_path, images, chunk_size=10).images_per_second <= 100
    once = zip_of(tmp_path / "once.zip", model_py=SLOW)
    assert package.run_submission(once, images).images_per_second == 0


@pytest.mark.slow
@pytest.mark.usefixtures("runner_without_keras")
def test_runner_names_no_images_when_there_are_none(tmp_path: Path) -> None:
    zip_path = zip_of(tmp_path / "s.zip", model_py=LABELS_ONLY)
    none = images_file(tmp_path, np.zeros((0, 16, 16, 3), np.uint8))
    assert package.run_submission(zip_path, none).labels.shape == (0,)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import hemaflow", "a submission stands alone"),
        ("class Model:\n  def __init__(self): raise OSError('no weights here')", "no weights here"),
        ("class Model:\n  def predict(self, X): return [0.5] * len(X)", "dtype float64"),
        ("class Model:\n  def predict(self, X): return [0]", r"gave shape \(1,\)"),
        ("import os; os._exit(0)", "exit status 0"),
        ("import os; os.kill(os.getpid(), 9)", "exit status -9"),
    ],
)
@pytest.mark.slow
@pytest.mark.usefixtures("runner_without_keras")
def test_failing_submission_is_told_with_what_it_said(
    tmp_path: Path, images: NDArray[np.uint8], code: str, said: str
) -> None:
    zip_path = zip_of(tmp_path / "s.zip", model_py=code)
    with pytest.raises(StageError, match=f"cannot be run on its own(.|\n)*{said}"):
        package.run_submission(zip_path, images_file(tmp_path, images))


BREAKS = """
import atexit, sys
from pathlib import Path
import numpy as np

def end():
    labels, about = sys.argv[3], sys.argv[4]
    {at_exit}

atexit.register(end)

class Model:
    classes = ["alpha", "beta"]

    def predict(self, X):
        return np.zeros(len(X), int)
"""


@pytest.mark.parametrize(
    ("at_exit", "received"),
    [
        ("np.save(labels, np.array([0.5] * 7))", r"shape \(7,\) and dtype float64"),
        ("np.save(labels, np.array([{}] * 37), allow_pickle=True)", "dtype object"),
        ("Path(labels).write_bytes(b'PK no array')", "magic"),
        ("Path(about).write_text('not json')", "Invalid JSON"),
        ("Path(about).write_text('[' * 100_000)", "Invalid JSON|recursion"),
        (
            'Path(about).write_text(\'{"versions": {}, "classes": [0], "timed_images": 1, \''
            "'\"timed_seconds\": -1}')",
            "classes",
        ),
        ("Path(about).write_bytes(b' ' * (2 << 20))", "more than 1048576 bytes"),
    ],
    ids=["floats", "objects", "no-array", "no-json", "deep-json", "other-json", "much"],
)
@pytest.mark.usefixtures("runner_without_keras")
@pytest.mark.slow
def test_a_submission_that_writes_its_own_result_broke_the_contract(
    tmp_path: Path, images: NDArray[np.uint8], at_exit: str, received: str
) -> None:
    zip_path = zip_of(tmp_path / "s.zip", model_py=BREAKS.replace("{at_exit}", at_exit))
    with pytest.raises(StageError, match=f"broke the contract(.|\n)*Received:(.|\n)*({received})"):
        package.run_submission(zip_path, images_file(tmp_path, images))


FORGES_A_VERDICT = """
import sys
sys.stderr.write("\\x1b]0;title\\x07\\x1b[2J\\x1b[1;1Haccuracy 1.0000\\rError: none \\x1b[8m [/red]")
raise SystemExit(3)
"""


@pytest.mark.usefixtures("runner_without_keras")
@pytest.mark.slow
def test_output_of_a_submission_is_shown_as_text_and_marked(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    zip_path = zip_of(tmp_path / "s.zip", model_py=FORGES_A_VERDICT)
    with pytest.raises(StageError, match="cannot be run on its own") as raised:
        package.run_submission(zip_path, images_file(tmp_path, images))
    message = str(raised.value)
    assert all(character.isprintable() or character == "\n" for character in message)
    assert r"  | \x1b]0;title\x07\x1b[2J\x1b[1;1Haccuracy 1.0000" in message
    assert r"  | Error: none \x1b[8m [/red]" in message


@pytest.mark.slow
@pytest.mark.usefixtures("runner_without_keras")
def test_endless_submission_is_ended(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    zip_path = zip_of(tmp_path / "s.zip", model_py="while True: pass")
    with pytest.raises(StageError, match="did not finish within 1 seconds"):
        package.run_submission(zip_path, images_file(tmp_path, images), timeout_seconds=1)


@pytest.mark.slow
def test_submission_does_not_outlive_who_ran_it(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    beats = tmp_path / "beats"
    endless = f"import time\nwhile True:\n  open({str(beats)!r}, 'a').write('x')\n  time.sleep(0.05)"
    zip_path = zip_of(tmp_path / "s.zip", model_py=endless)
    call = "import sys; from pathlib import Path; "
    call += "from hemaflow.tasks.submit.package import run_submission as run; "
    call += "run(Path(sys.argv[1]), Path(sys.argv[2]))"
    caller = subprocess.Popen(
        [sys.executable, "-c", call, str(zip_path), str(images_file(tmp_path, images))],
        cwd=Path(package.__file__).parents[3],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        wait_until(lambda: beats.is_file() and beats.stat().st_size >= 3)
    finally:
        caller.kill()
        caller.wait()

    def silent() -> bool:
        before = beats.stat().st_size
        time.sleep(1)
        return beats.stat().st_size == before

    wait_until(silent)


def wait_until(condition: Callable[[], bool], timeout_seconds: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "name", ["../model.py", "/model.py", "a/../../model.py", "C:model.py", "..\\model.py"]
)
def test_zip_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("model.py", "")
        archive.writestr(name, "")
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(DataError, match="outside its folder"):
        package.unpack(tmp_path / "s.zip", folder)
    assert list(folder.iterdir()) == []


def test_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("model.keras")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("model.py", "")
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="contains a link"):
        package.unpack(tmp_path / "s.zip", tmp_path)


def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MAX_UNPACKED_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.py", bytes(2 << 20))
    with pytest.raises(DataError, match="unpacks to more than 1048576 bytes"):
        package.unpack(tmp_path / "s.zip", tmp_path)


def test_bomb_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path, told, real = tmp_path / "s.zip", 10, 2 << 20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.py", bytes(real))
    path.write_bytes(path.read_bytes().replace(real.to_bytes(4, "little"), told.to_bytes(4, "little")))
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(DataError, match="cannot be unpacked"):
        package.unpack(path, folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= told


def test_zip_without_model_and_no_zip_are_refused(tmp_path: Path) -> None:
    nested = tmp_path / "nested.zip"
    with zipfile.ZipFile(nested, "w") as archive:
        archive.writestr("submission/model.py", "")
    with pytest.raises(DataError, match=r"has no model\.py(.|\n)*'submission/model\.py'"):
        package.unpack(nested, tmp_path)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(nested.read_bytes()[:-30])
    for path in (cut, tmp_path / "absent.zip"):
        with pytest.raises(DataError, match="cannot be unpacked"):
            package.unpack(path, tmp_path)
