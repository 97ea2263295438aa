"""Naming single image files: what is read, what is refused."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemaflow.infra.errors import DataError
from hemaflow.tasks.inference import predict
from hemaflow.tasks.sources.images import fit

CLASSES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8 × 8 pixels that names the leading colour."""
    import keras

    inner = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inner))
    dense = keras.layers.Dense(3, activation="softmax")
    model = keras.Model(inner, dense(pooled))
    dense.set_weights([9 * np.eye(3, dtype=np.float32), np.zeros(3, np.float32)])
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


def picture(
    path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 30), mode: str = "RGB"
) -> Path:
    Image.new("RGB", size, colour).convert(mode).save(path)
    return path


@pytest.mark.slow
def test_each_file_is_named_in_order(tmp_path: Path, model_path: Path) -> None:
    paths = [
        picture(tmp_path / "a.png", (0, 0, 255), mode="P"),
        picture(tmp_path / "b.jpg", (255, 0, 0), (8, 8)),
        picture(tmp_path / "c.png", (0, 255, 0), (3, 90), mode="RGBA"),
    ]
    named = predict.predict_images(model_path, paths, 8, CLASSES, ("identity",), num_top=2, batch_size=2)
    assert [result["image"] for result in named] == [str(path) for path in paths]
    assert [result["top"][0]["class"] for result in named] == ["blue", "red", "green"]
    for result in named:
        first, second = (entry["probability"] for entry in result["top"])
        assert 0 < second < first < 1


def test_the_middle_square_is_read(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = (10, 200, 30)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = fit(predict.read_image(tmp_path / "wide.png"), 8, "crop")
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image, np.broadcast_to((10, 200, 30), image.shape), atol=2)


def test_text_named_jpg_cut_file_and_no_file_are_refused(tmp_path: Path) -> None:
    text, cut = tmp_path / "text.jpg", tmp_path / "cut.jpg"
    text.write_text("no picture")
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(buffer, "JPEG")
    cut.write_bytes(buffer.getvalue()[:400])
    for path in (text, cut, tmp_path / "absent.png", tmp_path):
        with pytest.raises(DataError, match=r"cannot be read as an image(.|\n)*Where: "):
            predict.read_image(path)


@pytest.mark.parametrize("side", [9000, 60000])
def test_decompression_bomb_is_refused_before_it_unpacks(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(DataError, match=r"too many|decompression bomb"):
        predict.read_image(tmp_path / "bomb.png")
