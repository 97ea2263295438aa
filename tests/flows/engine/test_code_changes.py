"""Which edits of the code make which stages run again: harmless ones none, others those that they concern."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.code_edits import EditedCode

LAYERS = {
    "augment": {"copies": 1, "layers": [{"name": "MotionBlur", "factors": {"length": 0.1}}]},
    "train": {"online": [{"name": "RandomFlip"}]},
}
NEW_CLASS = '''class Other(StoreError):
    """Another error."""


class ObjectMissing(StoreError):'''
NEW_BACKBONE = """BACKBONES.register("densenet169")(
    Backbone("DenseNet169", "torch", 224, 12_642_880, "conv5_block1_0_bn", "arXiv:1608.06993")
)

BACKBONES.register("densenet121")("""
NEW_LAYER = '''@_own_layer("Nothing")
def _nothing(_: int) -> Change:
    return lambda images: images


@_own_layer("MotionBlur"'''
NEW_METRIC = '''@metric("errors", "Errors", "share of the images named wrong")
def errors(sample: Resamples) -> Values:
    return 1 - accuracy(sample)


@metric("nll"'''
NEW_VIEW = """@_kind("negative")
def _negative(images: keras.KerasTensor, amount: str) -> keras.KerasTensor:
    return 255.0 - images


@_kind("shift")"""
NEW_SOURCE = '''@SOURCES.register("nothing")
class NoSource(Source):
    """Nothing."""


@SOURCES.register("zip")'''


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> EditedCode:
    """A copy of the code that each test leaves as it was."""
    return EditedCode(tmp_path_factory.mktemp("code"), LAYERS)


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        # What only moves bytes.
        ("infra/errors.py", "class ObjectMissing(StoreError):", NEW_CLASS, []),
        ("infra/errors.py", 'super().__init__(printable("', 'super().__init__("" + printable("', []),
        ("infra/store/base.py", "    def stat(", "    def size(self) -> int: ...\n\n    def stat(", []),
        ("infra/store/s3.py", "READ_BYTES =", "READ_BYTES = 2 *", []),
        ("infra/stat_cache.py", "FILES_AT_ONCE = 64", "FILES_AT_ONCE = 65", []),
        ("infra/settings.py", "    cluster: str", "    colour: bool = True\n    cluster: str", []),
        ("infra/results/draft.py", "def silent(", "def loud() -> None: ...\n\n\ndef silent(", []),
        # Rows that the config does not name.
        ("tasks/model/families/densenet.py", 'BACKBONES.register("densenet121")(', NEW_BACKBONE, []),
        ("tasks/model/families/efficientnet.py", "4_049_571", "4_049_572", []),
        ("tasks/model/families/efficientnet.py", "if weights is None", "if not weights", []),
        ("tasks/layers/own_layers.py", '@_own_layer("MotionBlur"', NEW_LAYER, []),
        ("tasks/layers/keras_cv_table.py", '    "Grayscale": {},', '    "Grayscale": {}, "Grey": {},', []),
        ("tasks/layers/online.py", '    "AutoContrast": {},', '    "AutoContrast": {}, "Other": {},', []),
        ("tasks/sources/kinds/zips.py", '@SOURCES.register("zip")', NEW_SOURCE, []),
        ("tasks/sources/kinds/zips.py", "MEMBERS_AT_ONCE = 64", "MEMBERS_AT_ONCE = 65", []),
        ("tasks/sources/sample_cells.py", "NUM_PER_CLASS =", "NUM_PER_CLASS = 2 *", []),
        # What is not used, and what is only text.
        ("tasks/core/classes.py", '"basophil"', '"basophile"', []),
        ("tasks/ingest/stage.py", "# Every source lists", "# Each source lists", []),
        ("tasks/ingest/stage.py", '"""Write the data set.', '"""Write the set of data.', []),
        # A view is part of the text of a submission, used or not.
        ("tasks/inference/views.py", '@_kind("shift")', NEW_VIEW, ["submit"]),
        # What counts.
        ("tasks/layers/own_layers.py", "NUM_LENGTHS = 6", "NUM_LENGTHS = 7", ["augment"]),
        ("tasks/model/families/cnn.py", "(16, 32, 64, 96, 128)", "(16, 32, 64, 96, 129)", ["train"]),
        ("tasks/sources/kinds/folders.py", "if folder}", "if not folder}", ["ingest"]),
        ("tasks/ingest/config.py", "self.fold >= max(", "self.fold > max(", ["ingest"]),
        ("tasks/train/objective.py", "momentum=0.9", "momentum=0.8", ["train"]),
        ("tasks/submit/runner.py", "LIBRARIES = (", 'LIBRARIES = ("pip", ', ["submit"]),
    ],
)  # fmt: skip
def test_an_edit_changes_the_keys_of_those_that_it_concerns(
    original: EditedCode, file: str, old: str, new: str, expected: list[str]
) -> None:
    before = (original.root / file).read_text()
    try:
        original.edit(file, old, new)
        assert original.changed() == expected
    finally:
        (original.root / file).write_text(before)


def test_an_edit_of_a_row_changes_the_keys_of_the_configs_that_name_it(tmp_path: Path) -> None:
    config: dict[str, Any] = {"train": {"backbone": "densenet121"}, "ingest": {"image_size_pixels": 64}}
    code = EditedCode(tmp_path, config, kind="zip")
    code.edit("tasks/model/families/densenet.py", "7_037_504", "7_037_505")
    assert code.changed() == ["train"]
    code.edit("tasks/sources/kinds/zips.py", "MEMBERS_AT_ONCE = 64", "MEMBERS_AT_ONCE = 65")
    assert code.changed() == ["ingest", "train"]
    code.edit("tasks/evaluate/metrics.py", '@metric("nll"', NEW_METRIC)
    assert "train" in code.changed()
    assert "evaluate" in code.changed()
