"""Backbones: what each is, what pixels it takes, how it is built.

A backbone maps float32[B, S, S, 3] to feature maps float32[B, s, s, F]. A module of `tasks/model/families/`
registers each one:

    BACKBONES.register("resnet50")(Backbone(application="ResNet50", preprocessing="caffe", …))

The attributes are those of keras.applications in Keras 3.15.1; tests hold them against its functions and
networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from hemaflow.infra.errors import ConfigError, nearest
from hemaflow.infra.registry import Registry

if TYPE_CHECKING:
    import keras

Preprocessing = Literal["none", "tf", "caffe", "torch"]
"""What is done to RGB pixels in 0..255, as keras.applications calls it: none, where the network does it
itself; tf, to -1..1; caffe, to BGR minus its ImageNet mean; torch, to mean 0 and standard deviation 1."""
Weights = Literal["imagenet"] | None
"""Weights to begin with; None for random ones."""
Shape = tuple[int, int, int]
"""Height, width and channels of an image."""

# keras/src/applications/imagenet_utils.py, in RGB order: caffe in 0..255, torch in 0..1.
CAFFE_MEAN = (123.68, 116.779, 103.939)
TORCH_MEAN, TORCH_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A network without its top. A network of our own is a subclass with a `build` of its own.

    Attributes:
        application: Name of the builder in `keras.applications`, or "" for our own network.
        preprocessing: What is done to pixels before it.
        native_pixels: The input size that its ImageNet weights were made at.
        num_parameters: Number of all its variables without the top, those of BatchNorm and Normalization
            included.
        last_stage: The first layer of its last stage, the one with the lowest resolution: where
            train.fine_tuning.from_layer=last-stage begins.
        source: The paper that describes it.
        min_pixels: The smallest input that it takes.
        arguments: Further arguments of its builder.
    """

    application: str
    preprocessing: Preprocessing
    native_pixels: int
    num_parameters: int
    last_stage: str
    source: str
    min_pixels: int = 32
    arguments: Mapping[str, float] = field(default_factory=dict)

    def build(self, shape: Shape, weights: Weights) -> keras.Model:
        """Return the network for images of a shape; downloads ImageNet weights where they are missing."""
        import keras

        builder = getattr(keras.applications, self.application)
        return builder(include_top=False, weights=weights, input_shape=shape, **self.arguments)


BACKBONES: Registry[Backbone] = Registry("backbone", "hemaflow.tasks.model.families")
"""Name, as `--set train.backbone=NAME` takes it → backbone."""
CODE_PACKAGES = ("hemaflow.tasks.model.families",)
CODE_TABLES = ("BACKBONES",)


def check_backbone(name: str) -> str:
    """Return the name of a known backbone. Raises ValueError naming the nearest one."""
    if name not in BACKBONES:
        raise ValueError(f"There is no backbone {name!r}. {nearest(name, BACKBONES)}")
    return name


def preprocess(pixels: keras.KerasTensor, preprocessing: Preprocessing) -> keras.KerasTensor:
    """Return RGB pixels float32[B, S, S, 3] in 0..255 as a network takes them, by Keras' own layers."""
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


def build_backbone(name: str, input_pixels: int, weights: Weights) -> keras.Model:
    """Return the network of a backbone without its top, for inputs of `input_pixels` squared.

    Raises:
        ConfigError: The backbone does not take images that small.
    """
    backbone = BACKBONES.find(name)
    if input_pixels < backbone.min_pixels:
        raise ConfigError(
            f"The backbone {name} does not take images of {input_pixels} pixels.",
            expected=f"at least {backbone.min_pixels} pixels",
            remedy=f"Have the model resize them: --set train.input_size_pixels={backbone.min_pixels}",
        )
    return backbone.build((input_pixels, input_pixels, 3), weights)
