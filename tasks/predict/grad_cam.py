"""Grad-CAM: the regions of an image that support a class.

Source: Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
arXiv:1610.02391. The map is the sum of the backbone's feature maps, each weighted by the mean gradient of
the class's score (before the softmax); negative values are set to 0.

Takes a saved classifier (`tasks/model/network.py`): a chain of layers and models, of which the last with
feature maps is the backbone. A map has the resolution of these: 6 × 6 squares for the `cnn` at 96 pixels.
Guarantees: an image's map does not depend on the other images; the same images give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.model.ensembles import members_of

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 8
"""Number of images at once: a report explains a few dozen, and every batch is padded to this size."""


def grad_cam(model: keras.Model, images: NDArray[np.uint8], classes: Sequence[int]) -> NDArray[np.float32]:
    """Return one map for each image, float32[N, H, W] in 0..1; the maximum of each image is 1, or 0.

    The map of an ensemble is the mean of its members' maps.

    Args:
        model: A classifier as it is saved, float32[B, H, W, 3] in 0..255 → float32[B, C], that ends in a
            Dense layer with a softmax.
        images: uint8[N, H, W, 3].
        classes: N labels, the class to explain in each image.
    """
    from keras import ops

    if members := members_of(model):
        return _brightest_is_1(np.stack([grad_cam(member, images, classes) for member in members]).mean(0))
    to_features, to_scores = _split(model)
    size = images.shape[1:3]
    maps = np.zeros((len(images), *size), np.float32)
    for start in range(0, len(images), BATCH_SIZE):
        rows = slice(start, min(start + BATCH_SIZE, len(images)))
        count = rows.stop - start
        pixels = np.zeros((BATCH_SIZE, *size, 3), np.float32)
        pixels[:count] = images[rows]
        asked = np.zeros((BATCH_SIZE, model.output_shape[-1]), np.float32)
        asked[range(count), list(classes[rows])] = 1
        small = _maps(to_features, to_scores, pixels, asked)
        large = ops.image.resize(small[..., None], size, interpolation="bilinear")
        maps[rows] = ops.convert_to_numpy(large)[:count, ..., 0]
    return _brightest_is_1(maps)


def _brightest_is_1(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    most = maps.max((1, 2), keepdims=True, initial=0)
    scaled: NDArray[np.float32] = np.divide(maps, most, out=np.zeros_like(maps), where=most > 0)
    return scaled


def _maps(
    to_features: Sequence[keras.Operation],
    to_scores: Sequence[keras.Layer],
    pixels: NDArray[np.float32],
    asked: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the maps of a batch at the resolution of its features, float32[B, h, w], at least 0.

    Args:
        to_features: Layers and other operations from pixels to feature maps.
        to_scores: Layers from feature maps to probabilities.
        pixels: float32[B, H, W, 3] in 0..255.
        asked: float32[B, C], 1 at the class to explain.
    """
    import keras
    from keras import ops

    features = ops.convert_to_tensor(pixels)
    for step in to_features:
        # The swap from RGB to BGR in some preprocessing is not a layer.
        features = step(features, training=False) if isinstance(step, keras.Layer) else step(features)
    features = ops.cast(features, "float32")

    def score(features: keras.KerasTensor) -> keras.KerasTensor:
        scores = features
        for layer in to_scores[:-1]:
            scores = layer(scores, training=False)
        last = to_scores[-1]
        # Without the softmax: it has almost no gradient where a model is confident.
        return ops.sum((ops.matmul(ops.cast(scores, "float32"), last.kernel) + last.bias) * asked)

    weights = ops.mean(_gradient(score, features), axis=(1, 2), keepdims=True)
    found: NDArray[np.float32] = ops.convert_to_numpy(ops.relu(ops.sum(weights * features, axis=-1)))
    return found


def _gradient(
    function: Callable[[keras.KerasTensor], keras.KerasTensor], at: keras.KerasTensor
) -> keras.KerasTensor:
    """Return the gradient of a scalar function, computed by the backend of Keras."""
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.grad(function)(at)
    if backend == "torch":
        at = at.detach().requires_grad_()
        function(at).backward()
        return at.grad
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(at)
        value = function(at)
    return tape.gradient(value, at)


def _split(model: keras.Model) -> tuple[list[keras.Operation], list[keras.Layer]]:
    """Return the operations of a classifier up to its feature maps, and the layers after them."""
    chain = model.operations  # the input first
    features = max(number for number, layer in enumerate(chain) if len(layer.output.shape) == 4)
    return chain[1 : features + 1], [layer for part in chain[features + 1 :] for layer in _layers(part)]


def _layers(part: keras.Layer) -> Iterator[keras.Layer]:
    """Yield a layer, or the layers of a model that is a chain, without its input."""
    import keras

    if not isinstance(part, keras.Model):
        yield part
        return
    for layer in part.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            yield from _layers(layer)
