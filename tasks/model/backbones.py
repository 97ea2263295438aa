"""The table of backbones: how each is built, what pixels it wants, where its layers come from.

A backbone maps float32[B, S, S, 3] to feature maps float32[B, s, s, F]. Which pixel values it expects is a
column of the table, so that nothing else needs to know. The columns are those of keras.applications in Keras
3.15.1; tests hold them against its functions and networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hemaflow.infra.errors import ConfigError, nearest

Preprocessing = Literal["none", "tf", "caffe", "torch"]
"""What is done to RGB pixels in 0..255, as keras.applications calls it: none, where the network does it
itself; tf, to -1..1; caffe, to BGR less its mean over ImageNet; torch, to mean 0 and deviation 1."""

# keras/src/applications/imagenet_utils.py, in RGB order: caffe in 0..255, torch in 0..1.
CAFFE_MEAN = (123.68, 116.779, 103.939)
TORCH_MEAN, TORCH_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """One row of the table.

    Attributes:
        application: Name of the builder in `keras.applications`, or "" for our own network.
        preprocessing: What is done to pixels before it.
        native_pixels: The input size that its ImageNet weights were made at.
        num_parameters: All of its variables without the top, those of BatchNorm and Normalization included.
        last_stage: The first layer of its last stage, the one of the lowest resolution: what
            train.fine_tuning.from_layer=last-stage begins at.
        source: Where it is described.
        min_pixels: The smallest input that it takes.
        arguments: What else its builder is given.
    """

    application: str
    preprocessing: Preprocessing
    native_pixels: int
    num_parameters: int
    last_stage: str
    source: str
    min_pixels: int = 32
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _mobilenet_v2(alpha: float, num_parameters: int) -> Backbone:
    source, arguments = "arXiv:1801.04381", {"alpha": alpha}
    return Backbone("MobileNetV2", "tf", 224, num_parameters, "block_13_expand", source, arguments=arguments)


def _mobilenet_v3(size: str, num_parameters: int, last_stage: str) -> Backbone:
    return Backbone(f"MobileNetV3{size}", "none", 224, num_parameters, last_stage, "arXiv:1905.02244")


def _efficientnet(size: str, native_pixels: int, num_parameters: int) -> Backbone:
    name, source = f"EfficientNet{size}", "arXiv:1905.11946"
    return Backbone(name, "none", native_pixels, num_parameters, "block6a_expand_conv", source)


def _efficientnet_v2(size: str, native_pixels: int, num_parameters: int) -> Backbone:
    name, source = f"EfficientNetV2{size}", "arXiv:2104.00298"
    return Backbone(name, "none", native_pixels, num_parameters, "block6a_expand_conv", source)


def _convnext(size: str, num_parameters: int) -> Backbone:
    last_stage = f"convnext_{size.lower()}_downsampling_block_2"
    return Backbone(f"ConvNeXt{size}", "none", 224, num_parameters, last_stage, "arXiv:2201.03545")


def _resnet(depth: int, num_parameters: int) -> Backbone:
    source = "arXiv:1512.03385"
    return Backbone(f"ResNet{depth}", "caffe", 224, num_parameters, "conv5_block1_1_conv", source)


def _resnet_v2(depth: int, num_parameters: int) -> Backbone:
    source = "arXiv:1603.05027"
    return Backbone(f"ResNet{depth}V2", "tf", 224, num_parameters, "conv5_block1_preact_bn", source)


_VGG = "five blocks of two 3x3 convolutions, after VGG, arXiv:1409.1556"

BACKBONES: dict[str, Backbone] = {
    "cnn": Backbone("", "tf", 96, 470_832, "block5_conv1", _VGG, min_pixels=16),
    "mobilenetv2-0.35": _mobilenet_v2(0.35, 410_208),
    "mobilenetv2-0.5": _mobilenet_v2(0.5, 706_224),
    "mobilenetv2-0.75": _mobilenet_v2(0.75, 1_382_064),
    "mobilenetv2": _mobilenet_v2(1.0, 2_257_984),
    "mobilenetv3-small": _mobilenet_v3("Small", 939_120, "expanded_conv_8_expand"),
    "mobilenetv3-large": _mobilenet_v3("Large", 2_996_352, "expanded_conv_12_expand"),
    "efficientnet-b0": _efficientnet("B0", 224, 4_049_571),
    "efficientnet-b1": _efficientnet("B1", 240, 6_575_239),
    "efficientnet-b2": _efficientnet("B2", 260, 7_768_569),
    "efficientnet-b3": _efficientnet("B3", 300, 10_783_535),
    "efficientnet-b4": _efficientnet("B4", 380, 17_673_823),
    "efficientnet-b5": _efficientnet("B5", 456, 28_513_527),
    "efficientnet-b6": _efficientnet("B6", 528, 40_960_143),
    "efficientnet-b7": _efficientnet("B7", 600, 64_097_687),
    "efficientnetv2-b0": _efficientnet_v2("B0", 224, 5_919_312),
    "efficientnetv2-b1": _efficientnet_v2("B1", 240, 6_931_124),
    "efficientnetv2-b2": _efficientnet_v2("B2", 260, 8_769_374),
    "efficientnetv2-b3": _efficientnet_v2("B3", 300, 12_930_622),
    "efficientnetv2-s": _efficientnet_v2("S", 384, 20_331_360),
    "efficientnetv2-m": _efficientnet_v2("M", 480, 53_150_388),
    "efficientnetv2-l": _efficientnet_v2("L", 480, 117_746_848),
    "convnext-tiny": _convnext("Tiny", 27_820_128),
    "convnext-small": _convnext("Small", 49_454_688),
    "convnext-base": _convnext("Base", 87_566_464),
    "convnext-large": _convnext("Large", 196_230_336),
    "convnext-xlarge": _convnext("XLarge", 348_147_968),
    "resnet50": _resnet(50, 23_587_712),
    "resnet101": _resnet(101, 42_658_176),
    "resnet50v2": _resnet_v2(50, 23_564_800),
    "resnet101v2": _resnet_v2(101, 42_626_560),
    "densenet121": Backbone("DenseNet121", "torch", 224, 7_037_504, "conv5_block1_0_bn", "arXiv:1608.06993"),
}


def check_backbone(name: str) -> str:
    """Return the name of a known backbone. Raises ValueError naming the nearest one."""
    if name not in BACKBONES:
        raise ValueError(f"There is no backbone {name!r}. {nearest(name, BACKBONES)}")
    return name


def preprocess(pixels: Any, preprocessing: Preprocessing) -> Any:
    """Return RGB pixels float32[B, S, S, 3] in 0..255 as a network wants them, by Keras' own layers."""
    import keras

    if preprocessing == "tf":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(pixels)
    if preprocessing == "torch":
        mean, variance = [255 * mean for mean in TORCH_MEAN], [(255 * d) ** 2 for d in TORCH_DEVIATION]
        return keras.layers.Normalization(mean=mean, variance=variance, name="normalize")(pixels)
    if preprocessing == "caffe":
        ones = [1.0, 1.0, 1.0]
        centred = keras.layers.Normalization(mean=list(CAFFE_MEAN), variance=ones, name="centre")(pixels)
        return keras.ops.flip(centred, axis=-1)
    return pixels


def build_backbone(name: str, input_pixels: int, weights: Literal["imagenet"] | None) -> Any:
    """Return the keras.Model of a backbone without its top, for inputs of `input_pixels` squared.

    Raises:
        ConfigError: The backbone does not take images that small.
    """
    import keras

    row = BACKBONES[name]
    if input_pixels < row.min_pixels:
        raise ConfigError(
            f"The backbone {name} does not take images of {input_pixels} pixels.",
            expected=f"at least {row.min_pixels} pixels",
            remedy=f"Have them resized in the model: --set train.input_size_pixels={row.min_pixels}",
        )
    shape = (input_pixels, input_pixels, 3)
    if not row.application:
        return _cnn(shape)
    builder = getattr(keras.applications, row.application)
    built = builder(include_top=False, weights=weights, input_shape=shape, **row.arguments)
    first_generation = row.application.startswith("EfficientNetB")
    return _with_imagenet_scale(built) if first_generation and weights is None else built


def _with_imagenet_scale(built: Any) -> Any:
    """Return an EfficientNet as Keras builds it for its ImageNet weights, so that a file of them fits.

    They were made with pixels divided by the variance, and Normalization divides by the deviation; without
    `weights="imagenet"` the builder leaves the rest out (tensorflow issue 49930).
    """
    import keras

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        out = layer(*args, **kwargs)
        if isinstance(layer, keras.layers.Normalization):
            return keras.layers.Rescaling([deviation**-0.5 for deviation in TORCH_DEVIATION])(out)
        return out

    return keras.models.clone_model(built, call_function=call)


def _cnn(shape: tuple[int, int, int]) -> Any:
    """Return the hand-built baseline, which halves the resolution four times."""
    import keras

    inputs = x = keras.Input(shape)
    for block, filters in enumerate((16, 32, 64, 96, 128), start=1):
        for layer in (1, 2):
            x = keras.layers.Conv2D(
                filters, 3, padding="same", use_bias=False, name=f"block{block}_conv{layer}"
            )(x)
            x = keras.layers.BatchNormalization(momentum=0.9, name=f"block{block}_bn{layer}")(x)
            x = keras.layers.ReLU(name=f"block{block}_relu{layer}")(x)
        if block < 5:
            x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return keras.Model(inputs, x, name="cnn")
