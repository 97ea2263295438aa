"""The table of augmentation layers: what a config may say, and that keras-cv takes it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from hemaflow.tasks.layers.keras_cv_table import KERAS_CV, LAYERS, LayerConfig
from hemaflow.tasks.layers.online import OnlineLayer
from hemaflow.tasks.layers.own_layers import OWN_LAYERS
from hemaflow.tasks.layers.schema import Layer


def test_wrong_name_tells_the_nearest() -> None:
    with pytest.raises(ValidationError, match=r"no layer 'Cutmx'\. Did you mean 'CutMix'\? One of: AugMix, "):
        LayerConfig(name="Cutmx")


def test_own_layers_are_layers_with_the_factors_that_they_register() -> None:
    assert {"MotionBlur", "JpegCompression", "ChannelDrop"} <= OWN_LAYERS.keys() <= LAYERS.keys()
    for name, layer in OWN_LAYERS.items():
        assert LAYERS[name] == layer.factors
        _, *factors = inspect.signature(layer.builder).parameters
        assert set(factors) == set(layer.factors), name


def test_wrong_factor_tells_the_nearest() -> None:
    with pytest.raises(ValidationError, match=r"RandomFlip has no factor 'moed'\. Did you mean 'mode'"):
        LayerConfig(name="RandomFlip", factors={"moed": "vertical"})


def test_factor_of_a_layer_that_takes_none() -> None:
    with pytest.raises(ValidationError, match=r"Grayscale has no factor 'factor'\. It takes none"):
        LayerConfig(name="Grayscale", factors={"factor": 1})


def test_missing_factor() -> None:
    with pytest.raises(ValidationError, match=r"RandomRotation needs factor: a number, 0\.\.1, or a list"):
        LayerConfig(name="RandomRotation")


@pytest.mark.parametrize("layer", [LayerConfig, OnlineLayer])
def test_a_grey_value_that_nothing_is_filled_with_is_refused(layer: type[Layer]) -> None:
    with pytest.raises(ValidationError, match="fill_value has an effect only with fill_mode=constant"):
        layer(name="RandomRotation", factors={"factor": 0.1, "fill_value": 9})
    assert layer(
        name="RandomRotation", factors={"factor": 0.1, "fill_mode": "constant", "fill_value": 9}
    ).factors


def test_a_hole_is_filled_with_a_grey_value_by_default() -> None:
    size: dict[str, object] = {"height_factor": 0.2, "width_factor": 0.2, "fill_value": 9}
    assert LayerConfig(name="RandomCutout", factors=size).factors == size
    with pytest.raises(ValidationError, match="fill_value has an effect only with fill_mode=constant"):
        LayerConfig(name="RandomCutout", factors={**size, "fill_mode": "gaussian_noise"})


def test_shear_along_no_axis() -> None:
    with pytest.raises(ValidationError, match="RandomShear needs x_factor or y_factor"):
        LayerConfig(name="RandomShear", factors={"fill_mode": "wrap"})


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("RandomRotation", {"factor": 1.5}),
        ("RandomRotation", {"factor": -0.2}),
        ("RandomRotation", {"factor": [0.3, -0.3]}),
        ("RandomRotation", {"factor": [-0.3, 0.0, 0.3]}),
        ("RandomRotation", {"factor": "0.3"}),
        ("RandomRotation", {"factor": True}),
        ("RandomRotation", {"factor": float("nan")}),
        ("RandomRotation", {"factor": 0.1, "fill_mode": "mirror"}),
        ("CutMix", {"alpha": 0}),
        ("CutMix", {"alpha": float("inf")}),
        ("RandAugment", {"augmentations_per_image": 2.5}),
        ("RandAugment", {"geometric": 1}),
        ("ChannelShuffle", {"groups": 2}),
        ("JitteredResize", {"scale_factor": 1.2}),
        ("RandomGaussianBlur", {"kernel_size": [3, 0], "factor": 1.0}),
        ("RandomContrast", {"factor": [0.5, 1.5]}),
        ("Posterization", {"bits": 9}),
    ],
)
def test_wrong_value(name: str, factors: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"{name}: expected .* to be .*; received"):
        LayerConfig(name=name, factors=factors)


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_probability_out_of_range(probability: float) -> None:
    with pytest.raises(ValidationError, match="probability"):
        LayerConfig(name="CutMix", probability=probability)


FIXED = {
    # What has one value that works here: an image has three channels and 256 grey values and keeps its size,
    # and GridMask's other fills call a method that TensorFlow's generators do not have.
    "RandomChannelShift": {"channels"},
    "Equalization": {"bins"},
    "JitteredResize": {"crop_size"},
    "GridMask": {"fill_mode"},
}


@pytest.mark.parametrize("name", KERAS_CV)
@pytest.mark.slow
def test_table_is_that_of_keras_cv(name: str) -> None:
    import keras_cv

    from hemaflow.tasks.layers.keras_cv_chain import FILLED

    not_offered = {"seed", "bounding_box_format", "segmentation_classes", *FILLED, *FIXED.get(name, ())}
    parameters = inspect.signature(getattr(keras_cv.layers, name)).parameters
    for form in KERAS_CV[name].values():
        if form.only_with:
            other, values = form.only_with
            assert (None in values) == (parameters[other].default in values)
    taken = {
        parameter.name: parameter.default is inspect.Parameter.empty
        for parameter in parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and parameter.name not in not_offered
    }
    assert {factor: form.required for factor, form in KERAS_CV[name].items()} == taken


@pytest.mark.slow
def test_configs_need_no_tensorflow() -> None:
    code = (
        "import sys; from hemaflow.tasks.augment.stage import AugmentConfig;"
        "AugmentConfig(layers=({'name': 'CutMix'},), copies=1);"
        "print(sorted({'tensorflow', 'keras', 'keras_cv', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
