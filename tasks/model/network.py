"""The classifier: uint8 or float32 pixels in 0..255 in, probabilities out, built of Keras' own layers only.

    pixels [B, H, W, 3] → online augmentation (training only) → resize → preprocessing → backbone
    → global average pooling → [Dense relu he_uniform, BatchNorm, Dropout] per head unit count → softmax

Two graphs share the weights: the one that is trained, with the online augmentation in front, and the one that
is saved, without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hemaflow.infra.errors import ConfigError, StageError, nearest
from hemaflow.infra.store.base import file_sha256
from hemaflow.tasks.layers.online import OnlineLayer, augment_online
from hemaflow.tasks.model.backbones import BACKBONES, Weights, build_backbone, preprocess

if TYPE_CHECKING:
    import keras

HEAD = "head"


def build_network(
    backbone: str,
    weights: Weights,
    input_pixels: int,
    num_classes: int,
    head_units: Sequence[int],
    dropout: float,
) -> tuple[keras.Model, keras.Model]:
    """Return (backbone, head) as keras.Models: pixels to features, features to probabilities."""
    import keras

    body = build_backbone(backbone, input_pixels, weights)
    inputs = x = keras.Input(body.output_shape[1:], name="features")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    for index, units in enumerate(head_units, start=1):
        x = keras.layers.Dense(units, "relu", kernel_initializer="he_uniform", name=f"dense{index}")(x)
        x = keras.layers.BatchNormalization(name=f"bn{index}")(x)
        x = keras.layers.Dropout(dropout, name=f"dropout{index}")(x)
    # In float32 whatever the policy: a softmax in half precision loses the small probabilities.
    x = keras.layers.Dense(num_classes, "softmax", dtype="float32", name="probabilities")(x)
    return body, keras.Model(inputs, x, name=HEAD)


def assemble(
    backbone: str,
    body: keras.Model,
    head: keras.Model,
    image_pixels: int,
    *,
    to_train: bool,
    online: Sequence[OnlineLayer] = (),
    seed: int = 0,
) -> keras.Model:
    """Return the classifier around a backbone and a head: float32[B, H, W, 3] in 0..255 → float32[B, C].

    With `to_train=False` it is in inference mode however it is called: models inside a model (Keras 3.15)
    drop out units where `training` is left open.
    """
    import keras

    inputs = keras.Input((image_pixels, image_pixels, 3), name="pixels")
    x = augment_online(inputs, tuple(online), seed)
    input_pixels = body.input_shape[1]
    if input_pixels != image_pixels:
        x = keras.layers.Resizing(input_pixels, input_pixels, interpolation="bilinear", name="resize")(x)
    x = preprocess(x, BACKBONES[backbone].preprocessing)
    training = None if to_train else False
    return keras.Model(inputs, head(body(x, training=training), training=training), name="classifier")


def load_backbone_weights(body: keras.Model, file: str, sha256: str) -> None:
    """Load the weights of a file into a backbone, if the file is unchanged.

    Raises:
        StageError: The file was changed or removed, or its weights do not fit.
    """
    path = Path(file)
    if not path.is_file() or file_sha256(path) != sha256:
        raise StageError(
            "The file of initial weights was changed or removed since the run began.",
            expected=f"SHA-256 {sha256[:12]}…",
            where=file,
            remedy="Run the same command again.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras only warns about layers that it leaves random
            body.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise StageError(
            "The initial weights do not fit the backbone.",
            expected=f"a Keras weights file of {body.name} without its top",
            received=str(error).partition("\n")[0],
            where=path.name,
            remedy="Name the backbone that the file was made from with --set train.backbone=….",
        ) from error


def unfreeze(body: keras.Model, from_layer: str | int, *, train_batch_norm: bool) -> None:
    """Make the layers of a backbone from `from_layer` on trainable, and all before it not.

    A BatchNorm layer that is not trainable runs in inference mode and keeps its statistics.

    Args:
        body: The backbone.
        from_layer: A layer's name, or its index; a negative one counts from the end.
        train_batch_norm: Whether BatchNorm layers among them learn and update their statistics.

    Raises:
        ConfigError: There is no such layer.
    """
    import keras

    first = layer_index(body, from_layer)
    body.trainable = True
    for index, layer in enumerate(body.layers):
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = index >= first and (train_batch_norm or not is_norm)


def layer_index(body: keras.Model, from_layer: str | int) -> int:
    """Return the index of a layer, counted from 0, for its name or for an index that may count from the end.

    Raises:
        ConfigError: There is no such layer.
    """
    names = [layer.name for layer in body.layers]
    if isinstance(from_layer, str):
        if from_layer not in names:
            raise ConfigError(
                f"The backbone {body.name} has no layer {from_layer!r}.",
                expected=nearest(from_layer, names),
                remedy="Name one of them in train.fine_tuning.from_layer, or give an index.",
            )
        first = names.index(from_layer)
    else:
        first = from_layer if from_layer >= 0 else len(names) + from_layer
    if not 0 <= first < len(names):
        raise ConfigError(
            f"The backbone {body.name} has no layer {from_layer}.",
            expected=f"an index below {len(names)}",
            remedy="Change train.fine_tuning.from_layer.",
        )
    return first
