"""The network that training starts from: built, with the initial weights that its config names.

These come from ImageNet, from a file, or from a model in the same store (`train:KEY`): the weights of its
backbone, and of its head where that fits. The key of the training holds the SHA-256 of that model and its
classes, never the run.

The head fits where the classes are the same, in the same order, and its layers have the same sizes; otherwise
it starts with random weights, as it does with ImageNet's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hemaflow.infra.errors import HemaflowError, StageError
from hemaflow.infra.results.manifest import load_manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.result_names import result_key
from hemaflow.tasks.model.backbones import Weights
from hemaflow.tasks.model.network import HEAD, build_network, load_backbone_weights

if TYPE_CHECKING:
    import keras

    from hemaflow.tasks.train.config import ResolvedTrainConfig

log = logging.getLogger(__name__)


def stored_model(store: Store, name: str, sha256: str) -> keras.Model:
    """Return the Keras model of a result of train.

    Args:
        store: Holds it.
        name: `train:KEY`.
        sha256: SHA-256 of the model that the config names.

    Raises:
        StageError: It was changed or removed.
    """
    import keras

    found = load_manifest(store, "train", result_key(name))
    if found is None or found[0].object("model.keras").sha256 != sha256:
        raise StageError(
            "A model that the config names was changed or removed since the run began.",
            expected=f"SHA-256 {sha256[:12]}…",
            where=f"{store.url}/stages/train/{result_key(name)}",
            remedy="Name another run.",
        )
    return keras.saving.load_model(found[0].path(store, "model.keras"), compile=False, safe_mode=True)


def starting_network(
    store: Store, config: ResolvedTrainConfig, input_pixels: int, classes: Sequence[str]
) -> tuple[keras.Model, keras.Model]:
    """Return (backbone, head) with the initial weights.

    Args:
        store: Holds the model that the config names, where it names one.
        config: The config.
        input_pixels: Height and width that the backbone takes.
        classes: Names of the labels 0, 1, …

    Raises:
        StageError: The initial weights cannot be downloaded, were changed or removed, or do not fit.
    """
    weights: Weights = "imagenet" if config.initial_weights == "imagenet" else None
    try:
        body, head = build_network(
            config.backbone,
            weights,
            input_pixels,
            len(classes),
            config.head_units,
            config.dropout,
        )
    except Exception as error:
        if weights is None or isinstance(error, HemaflowError):
            raise
        raise StageError(
            f"The ImageNet weights of {config.backbone} could not be downloaded.",
            received=str(error).partition("\n")[0],
            remedy="1. Download the notop weights of the backbone elsewhere and name the file: "
            "--set train.initial_weights=FILE.h5\n"
            "2. Or train from scratch: --set train.initial_weights=none",
        ) from error
    if result_key(config.initial_weights):
        start_from_model(
            store,
            config.initial_weights,
            config.initial_weights_sha256,
            body,
            head,
            same_classes=list(config.initial_classes) == list(classes),
        )
    elif config.initial_weights_sha256:
        load_backbone_weights(body, config.initial_weights, config.initial_weights_sha256)
    return body, head


def start_from_model(
    store: Store, weights: str, sha256: str, body: keras.Model, head: keras.Model, *, same_classes: bool
) -> None:
    """Copy the weights of a stored model into a backbone, and into a head where it fits.

    Args:
        store: Holds the model.
        weights: `train:KEY`.
        sha256: SHA-256 of the model that the config names.
        body: The backbone.
        head: The head.
        same_classes: Whether the model has the same classes in the same order.

    Raises:
        StageError: The model was changed or removed, or has another backbone.
    """
    import keras

    model = stored_model(store, weights, sha256)
    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    bodies = [part for part in parts if part.name != HEAD]
    if len(bodies) != 1 or not _fits(bodies[0], body):
        raise StageError(
            "The model of train.initial_weights has another backbone.",
            expected=f"the weights of {body.name}",
            received=", ".join(part.name for part in bodies) or "none",
            where=weights,
            remedy="Choose the backbone of that run with --set train.backbone=….",
        )
    body.set_weights(bodies[0].get_weights())
    heads = [part for part in parts if part.name == HEAD and same_classes and _fits(part, head)]
    for part in heads:
        head.set_weights(part.get_weights())
    log.info("starting from %s: backbone%s", weights[:14], " and head" if heads else ", a new head")


def _fits(one: keras.Model, other: keras.Model) -> bool:
    return _shapes(one) == _shapes(other)


def _shapes(part: keras.Model) -> Sequence[tuple[int, ...]]:
    return [tuple(variable.shape) for variable in part.weights]
