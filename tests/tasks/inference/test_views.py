from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hemaflow.tasks.inference import views
from hemaflow.tasks.inference.views import PRESETS, average, parse_views, predict, predict_each, view

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)


def shown(name: str, images: np.ndarray = IMAGES) -> np.ndarray:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(view(keras.ops.convert_to_tensor(images), name)))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.slow
def test_every_view_keeps_shape_and_range(preset: str) -> None:
    for name in parse_views(preset):
        pixels = shown(name)
        assert pixels.shape == IMAGES.shape
        assert pixels.min() >= 0
        assert pixels.max() <= 255


@pytest.mark.slow
def test_the_eight_views_of_a_square_are_all_different_and_complete() -> None:
    seen = {shown(name).tobytes() for name in PRESETS["dihedral"]}
    assert len(seen) == 8
    turned = np.rot90(IMAGES, axes=(1, 2))
    assert {shown(name, np.ascontiguousarray(turned)).tobytes() for name in PRESETS["dihedral"]} == seen


@pytest.mark.slow
def test_views_are_what_they_are_called() -> None:
    np.testing.assert_array_equal(shown("flip-horizontal"), IMAGES[:, :, ::-1])
    np.testing.assert_array_equal(shown("flip-vertical"), IMAGES[:, ::-1])
    np.testing.assert_array_equal(shown("rotate-180"), IMAGES[:, ::-1, ::-1])
    np.testing.assert_array_equal(shown("transpose"), IMAGES.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(shown("shift-x+3")[:, :, 3:], IMAGES[:, :, :-3])
    np.testing.assert_array_equal(shown("shift-y-3")[:, :-3], IMAGES[:, 3:])
    grey = np.full((1, 8, 8, 3), 90, np.float32)
    np.testing.assert_allclose(shown("saturation-4", grey), grey, rtol=1e-5)
    np.testing.assert_allclose(shown("crop-0.8", grey), grey, rtol=1e-5)
    np.testing.assert_allclose(shown("shrink-0.9", grey), grey, rtol=1e-5)


@pytest.mark.slow
def test_a_shrunken_image_is_all_there_and_its_edge_goes_on() -> None:
    image = np.zeros((1, 40, 40, 3), np.float32)
    image[:, :4] = 200  # a bar along the top, over the whole width
    seen = shown("shrink-0.9", image)[0, :, :, 0]
    bright = seen.sum(0) / 200
    np.testing.assert_allclose(bright, bright[0], rtol=1e-5)
    assert bright[0] == pytest.approx((4 + 2) * 40 / 44, rel=0.05)  # two rows of edge, all at 40/44


def test_every_view_of_a_preset_is_of_a_kind_that_registered() -> None:
    for name in {name for preset in PRESETS.values() for name in preset}:
        assert name in views._KINDS or name.partition("-")[0] in views._KINDS, name


def test_a_view_of_no_kind_and_two_kinds_of_one_name_are_mistakes() -> None:
    for name in ("mirror", "shifted-x+3", ""):
        with pytest.raises(ValueError, match="There is no view"):
            view(IMAGES, name)
    with pytest.raises(ValueError, match="two kinds of view called 'shift'"):
        views._kind("shift")(lambda images, amount: images)


def test_the_views_of_the_competition_entry_are_nine() -> None:
    assert len(PRESETS["seed"]) == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [("fliqs", "'flips'"), ("identity,rotate-91", "'rotate-90'"), ("serach", "'search'"), ("", "nothing")],
)
def test_an_unknown_view_names_the_nearest(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_views(text, ["search"])


class Brightness:
    """A model that says how bright the left column is; keeps the shapes that it was given."""

    output_shape = (None, 2)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict_on_batch(self, images: Any) -> np.ndarray:
        pixels = np.asarray(images)
        self.batches.append(len(pixels))
        bright = pixels[:, :, 0].mean((1, 2)) / 255
        return np.stack([bright, 1 - bright], 1)


@pytest.mark.slow
def test_probabilities_are_the_mean_over_the_views_in_full_batches() -> None:
    images = np.random.default_rng(1).integers(0, 255, (5, 8, 8, 3), np.uint8)
    model = Brightness()
    probabilities = predict(model, images, ("identity", "flip-horizontal"), 2)
    left, right = images[:, :, 0].mean((1, 2)) / 255, images[:, :, -1].mean((1, 2)) / 255
    np.testing.assert_allclose(probabilities[:, 0], (left + right) / 2, rtol=1e-5)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-6)
    assert set(model.batches) == {2}


@pytest.mark.slow
def test_the_mean_is_that_of_the_views_one_by_one() -> None:
    images = np.random.default_rng(2).integers(0, 255, (7, 8, 8, 3), np.uint8)
    each = predict_each(Brightness(), images, PRESETS["wide"], 4)
    assert each.shape == (len(PRESETS["wide"]), 7, 2)
    assert each.dtype == np.float32
    chosen = [0, 4, 8]
    names = [PRESETS["wide"][number] for number in chosen]
    np.testing.assert_array_equal(average(each[chosen]), predict(Brightness(), images, names, 3))
