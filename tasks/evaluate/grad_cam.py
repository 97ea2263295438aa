"""Where a classifier looks: Grad-CAM, the regions of an image that speak for a class.

Source: Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
arXiv:1610.02391. The feature maps of the backbone are weighed by the mean gradient of the class's score
(before the softmax) and added up; what speaks against the class is left out.

Asks a saved classifier (`tasks/model/network.py`): a chain of layers and models, of which the last that gives
feature maps is the backbone. A map is as fine as they are: 6 × 6 squares for the `cnn` at 96 pixels.
Guarantees: an image's map does not depend on how many others come with it; the same images give the same
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.model.ensembles import members_of

BATCH_SIZE = 8
"""Images at once: a report explains a few dozen, and batches are filled up."""


def grad_cam(model: Any, images: NDArray[np.uint8], classes: Sequence[int]) -> NDArray[np.float32]:
    """Return where each image speaks for a class, float32[N, H, W]; the most in each image is 1.

    Of an ensemble it is the mean of its members' maps.

    Args:
        model: A classifier as it is saved, float32[B, H, W, 3] in 0..255 → float32[B, C], that ends in a
            Dense layer with a softmax.
        images: uint8[N, H, W, 3].
        classes: N labels: the class that is asked about.
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
    to_features: Sequence[Any], to_scores: Sequence[Any], pixels: Any, asked: Any
) -> NDArray[np.float32]:
    """Return the maps of a batch as fine as its features are, float32[B, h, w], from 0 on.

    Args:
        to_features: Layers and other operations from pixels to feature maps.
        to_scores: Layers from feature maps to probabilities.
        pixels: float32[B, H, W, 3] in 0..255.
        asked: float32[B, C], 1 at the class that is asked about.
    """
    import keras
    from keras import ops

    features = ops.convert_to_tensor(pixels)
    for step in to_features:
        # The turn from RGB to BGR that some preprocessing makes is no layer.
        features = step(features, training=False) if isinstance(step, keras.Layer) else step(features)
    features = ops.cast(features, "float32")

    def score(features: Any) -> Any:
        scores = features
        for layer in to_scores[:-1]:
            scores = layer(scores, training=False)
        last = to_scores[-1]
        # Not its softmax: where a model is sure, that hardly has a gradient.
        return ops.sum((ops.matmul(ops.cast(scores, "float32"), last.kernel) + last.bias) * asked)

    weights = ops.mean(_gradient(score, features), axis=(1, 2), keepdims=True)
    found: NDArray[np.float32] = ops.convert_to_numpy(ops.relu(ops.sum(weights * features, axis=-1)))
    return found


def _gradient(function: Callable[[Any], Any], at: Any) -> Any:
    """Return the gradient of a function to a number, by the backend that Keras computes with."""
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


def _split(model: Any) -> tuple[list[Any], list[Any]]:
    """Return the chain that a classifier is, up to its feature maps and from them on."""
    chain = model.operations  # the input first
    features = max(number for number, layer in enumerate(chain) if len(layer.output.shape) == 4)
    return chain[1 : features + 1], [layer for part in chain[features + 1 :] for layer in _layers(part)]


def _layers(part: Any) -> Iterator[Any]:
    """Yield a layer, or the layers of a model that is a chain, but for its input."""
    import keras

    if not isinstance(part, keras.Model):
        yield part
        return
    for layer in part.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            yield from _layers(layer)
