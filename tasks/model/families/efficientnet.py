"""EfficientNet, arXiv:1905.11946: depth, width and resolution scaled together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hemaflow.tasks.model.backbones import BACKBONES, TORCH_DEVIATION, Backbone, Shape, Weights

if TYPE_CHECKING:
    import keras


class EfficientNet(Backbone):
    """An EfficientNet that takes a file of ImageNet weights, too."""

    def build(self, shape: Shape, weights: Weights) -> keras.Model:
        """Return the network as Keras builds it for its ImageNet weights, whatever the weights.

        They were made with pixels divided by the variance, and Normalization divides by the deviation;
        without `weights="imagenet"` the builder leaves the rest out (tensorflow issue 49930).
        """
        built = super().build(shape, weights)
        return _with_imagenet_scale(built) if weights is None else built


def _with_imagenet_scale(built: keras.Model) -> keras.Model:
    import keras

    def call(layer: keras.layers.Layer, *inputs: keras.KerasTensor, **options: object) -> keras.KerasTensor:
        out = layer(*inputs, **options)
        if isinstance(layer, keras.layers.Normalization):
            return keras.layers.Rescaling([deviation**-0.5 for deviation in TORCH_DEVIATION])(out)
        return out

    return keras.models.clone_model(built, call_function=call)


for size, native_pixels, num_parameters in (
    ("B0", 224, 4_049_571),
    ("B1", 240, 6_575_239),
    ("B2", 260, 7_768_569),
    ("B3", 300, 10_783_535),
    ("B4", 380, 17_673_823),
    ("B5", 456, 28_513_527),
    ("B6", 528, 40_960_143),
    ("B7", 600, 64_097_687),
):
    BACKBONES.register(f"efficientnet-{size.lower()}")(
        EfficientNet(
            application=f"EfficientNet{size}",
            preprocessing="none",
            native_pixels=native_pixels,
            num_parameters=num_parameters,
            last_stage="block6a_expand_conv",
            source="arXiv:1905.11946",
        )
    )
