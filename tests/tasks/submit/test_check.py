"""What `hemaflow check` makes of a submission that tells little of itself."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.pictures import CLASSES
from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.submit.check import check_submission, own_size
from hemaflow.tasks.submit.package import model_code, pack

BY_BRIGHTNESS = """
import numpy
class Model:
    def predict(self, X):
        assert X.shape[1:] == (96, 96, 3)
        return numpy.asarray(X)[:, 48, 48, 0].astype(int) // 30
"""


def submission(path: Path, code: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.py", code)
    return path


def pictures(folder: Path, labels: list[int], size: tuple[int, int] = (96, 96)) -> str:
    """Write a picture of each label of the eight classes, as bright as the label says."""
    for label in labels:
        (folder / PBC_CLASSES[label]).mkdir(parents=True)
        pixels = np.full((*size, 3), 30 * label + 15, np.uint8)
        Image.fromarray(pixels).save(folder / PBC_CLASSES[label] / "cell.png")
    return str(folder)


@pytest.mark.slow
def test_labels_are_those_of_the_eight_classes_though_only_some_are_there(tmp_path: Path) -> None:
    zip_path = submission(tmp_path / "submission.zip", BY_BRIGHTNESS)
    card = check_submission(zip_path, pictures(tmp_path / "cells", [1, 4, 7]), Settings())
    assert card.accuracy == 1.0
    assert card.size_pixels == 96
    assert [row.name for row in card.per_class] == [PBC_CLASSES[label] for label in (1, 4, 7)]


@pytest.mark.slow
def test_pictures_are_as_large_as_the_model_takes_them(tmp_path: Path) -> None:
    import keras

    pixels = keras.Input((40, 40, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(pixels)
    keras.Model(pixels, keras.layers.Dense(3, "softmax")(pooled)).save(tmp_path / "model.keras")
    pack(tmp_path / "own.zip", model_code(CLASSES, ("identity",), 4), tmp_path / "model.keras")
    assert own_size(tmp_path / "own.zip") == 40


@pytest.mark.parametrize("content", [b"", b"PK no zip", None])
def test_a_submission_that_tells_no_size_is_none_the_worse(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "submission.zip"
    if content is None:
        submission(path, BY_BRIGHTNESS)
    else:
        path.write_bytes(content)
    assert own_size(path) == 0


ODD_CLASSES = """
class Model:
    classes = ["alpha", "beta", "[/x]", "\\x1b]0;title\\x07"]

    def predict(self, X):
        return [0] * len(X)
"""


@pytest.mark.slow
def test_odd_names_of_classes_are_harmless_in_errors(tmp_path: Path) -> None:
    zip_path = submission(tmp_path / "submission.zip", ODD_CLASSES)
    with pytest.raises(DataError, match="lacks classes") as raised:
        check_submission(zip_path, pictures(tmp_path / "cells", [0, 1]), Settings())
    assert r"alpha, beta, [/x], \x1b]0;title\x07" in str(raised.value)
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("config", ["[" * 100_000, "{", '{"config": {"layers": []}}', "\ud800"])
def test_a_model_with_an_odd_config_has_no_known_size(tmp_path: Path, config: str) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as model:
        model.writestr("config.json", config.encode(errors="surrogatepass"))
    with zipfile.ZipFile(tmp_path / "submission.zip", "w") as archive:
        archive.write(tmp_path / "model.keras", "model.keras")
    assert own_size(tmp_path / "submission.zip") == 0


def test_what_is_no_submission_is_told(tmp_path: Path) -> None:
    (tmp_path / "submission.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="cannot be unpacked"):
        check_submission(tmp_path / "submission.zip", pictures(tmp_path / "cells", [0, 1]), Settings())
