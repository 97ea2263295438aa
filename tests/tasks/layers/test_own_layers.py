"""Noise, JPEG, pixels, channels and blur: what each does to an image, as much as its factors say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemaflow.tasks.layers.keras_cv_chain import Chain
from hemaflow.tasks.layers.keras_cv_table import LayerConfig

pytestmark = pytest.mark.slow

SIZE, NUM = 48, 64


def changed(name: str, image: NDArray[np.uint8], **factors: Any) -> NDArray[np.uint8]:
    """Return NUM copies of an image after a layer, uint8[NUM, SIZE, SIZE, 3]."""
    chain = Chain([LayerConfig(name=name, factors=factors)], NUM, SIZE, 3)
    labels = np.tile(np.eye(3, dtype=np.float32)[1], (NUM, 1))
    out, same = chain(np.tile(image, (NUM, 1, 1, 1)), labels, 5)
    np.testing.assert_array_equal(same, labels)
    return out


def grey(value: int) -> NDArray[np.uint8]:
    return np.full((SIZE, SIZE, 3), value, np.uint8)


def dot() -> NDArray[np.uint8]:
    """A bright square of 2 pixels in the middle of black."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[SIZE // 2 : SIZE // 2 + 2, SIZE // 2 : SIZE // 2 + 2] = 240
    return image


def test_gaussian_noise_has_a_deviation_of_each_images_own_within_the_span() -> None:
    noise = changed("GaussianNoise", grey(128), stddev=[0.02, 0.1]).astype(np.float64) - 128
    deviations = noise.std(axis=(1, 2, 3)) / 255
    assert 0.018 < deviations.min() < 0.04
    assert 0.08 < deviations.max() < 0.105
    assert abs(noise.mean()) < 0.5


def test_impulse_noise_turns_its_part_of_the_pixels_black_or_white() -> None:
    out = changed("ImpulseNoise", grey(128), amount=[0.1, 0.1])
    assert set(np.unique(out)) == {0, 128, 255}
    assert (out == 0).mean() == pytest.approx(0.05, abs=0.005)
    assert (out == 255).mean() == pytest.approx(0.05, abs=0.005)
    assert (out[..., 0] == out[..., 1]).all()  # a pixel as a whole


def test_one_channel_is_dropped_each_in_turn() -> None:
    out = changed("ChannelDrop", grey(100))
    gone = (out == 0).all(axis=(1, 2))
    assert (gone.sum(axis=1) == 1).all()
    assert (gone.sum(axis=0) > NUM / 6).all()  # a third each
    assert (out[~np.broadcast_to(gone[:, None, None, :], out.shape)] == 100).all()


def test_jpeg_costs_more_the_lower_its_quality() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    good, bad = (
        np.abs(changed("JpegCompression", image, quality=[q, q]).astype(float) - image).mean()
        for q in (95, 10)
    )
    assert 0 < good < bad


def test_pixelation_leaves_as_many_colours_as_pixels() -> None:
    rows = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 251
    image = np.repeat(rows[..., None], 3, axis=2).astype(np.uint8)
    out = changed("Pixelation", image, scale=[0.25, 0.25])
    assert all(
        len(np.unique(each[:: SIZE // 12, :: SIZE // 12].reshape(-1, 3), axis=0)) <= 144 for each in out
    )
    assert (out[0, :4, :4] == out[0, 0, 0]).all()  # blocks of four


@pytest.mark.parametrize(("name", "factors"), [("MotionBlur", "length"), ("DefocusBlur", "radius")])
def test_a_blur_spreads_and_keeps_the_light(name: str, factors: str) -> None:
    out = changed(name, dot(), **{factors: [0.1, 0.1]}).astype(np.float64)
    light = out.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(light, dot().sum(), rtol=0.15)  # rounded to whole grey values
    assert (out.max(axis=(1, 2, 3)) < 200).all()
    lit = (out[..., 0] > 0).sum(axis=(1, 2))
    assert (lit > 8).all()


def test_motion_has_a_direction_and_defocus_none() -> None:
    def elongation(out: NDArray[np.uint8]) -> NDArray[np.float64]:
        values = []
        for image in out[..., 0].astype(np.float64):
            rows, columns = np.nonzero(image)
            spread = np.cov(np.stack([rows, columns]), aweights=image[rows, columns])
            small, large = np.linalg.eigvalsh(spread)
            values.append(large / small)
        return np.array(values)

    assert (elongation(changed("MotionBlur", dot(), length=[0.25, 0.25])) > 4).all()
    assert (elongation(changed("DefocusBlur", dot(), radius=[0.1, 0.1])) < 1.5).all()


def test_strength_none_changes_nothing() -> None:
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    for name, factor in (("GaussianNoise", "stddev"), ("ImpulseNoise", "amount"), ("MotionBlur", "length")):
        assert (changed(name, image, **{factor: 0}) == image).all(), name
