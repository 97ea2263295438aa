"""Trains on several devices as on one: each step's batch is divided among them, and its gradients are summed.

All visible GPUs train together, or as many as HEMAFLOW_DEVICES says. `train.batch_size` counts the images of
all devices together. With the tensorflow backend each device has a replica of the network
(tf.distribute.MirroredStrategy); with jax the arrays of a batch are distributed
(keras.distribution.DataParallel); torch uses one device.

Losses and weights are those of one device, up to the rounding of sums taken in another order: BatchNorm takes
the statistics of the whole batch, gradients are clipped after they are summed, and the images of a batch that
does not divide evenly count the same on all devices. With the tensorflow backend, random layers (dropout,
online augmentation) draw other numbers than on one device: each replica draws for its own images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hemaflow.infra.errors import ConfigError
from hemaflow.infra.settings import current_settings

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

log = logging.getLogger(__name__)


@contextmanager
def use_devices(mixed_precision: str, *, together: bool = True) -> Iterator[None]:
    """Set the precision for this machine's devices; they train the models that are built in the context.

    Args:
        mixed_precision: `auto` computes in half precision on accelerators, `off` never does.
        together: Whether several devices are used; only one is where False.

    Raises:
        ConfigError: HEMAFLOW_DEVICES asks for more devices than there are.
    """
    import keras

    backend = keras.backend.backend()
    accelerators, others = _tensorflow_devices() if backend == "tensorflow" else _keras_devices()
    devices = _chosen(accelerators, others, together=backend != "torch")[: None if together else 1]
    policy = "float32"
    if accelerators and mixed_precision == "auto":
        policy = _half_precision() if backend == "tensorflow" else "mixed_bfloat16"
    keras.mixed_precision.set_global_policy(policy)
    log.info("training on %s in %s", ", ".join(name.removeprefix("/device:") for name in devices), policy)
    if len(devices) == 1:
        yield
    elif backend == "tensorflow":
        with _mirrored(tuple(devices)).scope():
            yield
    else:
        with _data_parallel(devices).scope():
            yield


def divided(model: keras.Model) -> keras.Model:
    """Return a model with the same layers whose batches are divided among the devices of the context."""
    import keras

    if keras.distribution.distribution() is not None:
        return keras.Model(model.inputs, model(_divide_batch(model.inputs[0])), name=model.name)
    if keras.backend.backend() != "tensorflow":
        return model
    import tensorflow as tf

    if not tf.distribute.has_strategy():
        return model
    return _replicated(model)


def enough_for_all(batches: Any) -> Any:
    """Return training batches with an image for each of TensorFlow's replicas: a smaller batch is repeated.

    Its means, of BatchNorm and of the gradient, stay the same; only in the reported loss and accuracy of the
    epoch its images, fewer than there are devices, count more.
    """
    replicas = _num_replicas()
    if replicas == 1:
        return batches
    import tensorflow as tf

    def repeated(*parts: tf.Tensor) -> tuple[tf.Tensor, ...]:
        times = -(-replicas // tf.shape(parts[0])[0])
        return tuple(tf.repeat(part, times, axis=0) for part in parts)

    return batches.map(repeated)


def synchronize_batch_norm(models: Sequence[keras.Model], together: bool | None = None) -> None:
    """Have BatchNorm layers take the statistics of the whole batch where replicas share it.

    Args:
        models: Functional models; their layers are no models themselves.
        together: Whether replicas share batches; found out where None.
    """
    import keras

    if together is None:
        together = _num_replicas() > 1
    for layer in (layer for model in models for layer in model.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = together


def clipped(optimizer: type[keras.optimizers.Optimizer], norm: float, **arguments: Any) -> Any:
    """Return an optimizer that limits the norm of all gradients together, summed over all devices.

    Keras clips the gradients of each replica before it sums them.
    """
    if _num_replicas() == 1:
        return optimizer(global_clipnorm=norm, **arguments)
    import tensorflow as tf

    class Clipped(optimizer):  # type: ignore[misc]
        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: object = None) -> None:
            summed = tf.distribute.get_replica_context().all_reduce("sum", list(grads))
            scale = tf.minimum(1.0, norm / tf.linalg.global_norm(summed))
            super().apply([gradient * scale for gradient in grads], trainable_variables)

    return Clipped(**arguments)


def _chosen(accelerators: Sequence[str], others: Sequence[str], together: bool) -> Sequence[str]:
    """Return the devices that train: all accelerators, or one other, or as many as the settings say."""
    wanted = current_settings().devices
    available = (accelerators or others)[: None if together else 1]
    if wanted > len(available):
        raise ConfigError(
            "There are not as many devices to train on.",
            expected=f"HEMAFLOW_DEVICES of at most {len(available)}",
            received=f"HEMAFLOW_DEVICES={wanted}",
            remedy="Change HEMAFLOW_DEVICES, or unset it to train on all GPUs.",
        )
    return available[: wanted or (len(available) if accelerators else 1)]


@cache
def _mirrored(devices: Sequence[str]) -> tf.distribute.MirroredStrategy:
    """Return the strategy of these devices; a second one would take its sums for those of the first."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices)


def _tensorflow_devices() -> tuple[list[str], list[str]]:
    """Return the names of TensorFlow's GPUs, and of its other devices."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    gpus, others = (
        [device.name for device in tf.config.list_logical_devices(kind)] for kind in ("GPU", "CPU")
    )
    return gpus, others


def _keras_devices() -> tuple[list[str], list[str]]:
    """Return the names of the accelerators that Keras' backend sees, and of its other devices."""
    import keras

    devices = keras.distribution.list_devices()
    others = [device for device in devices if "cpu" in device]
    return [device for device in devices if device not in others], others


def _half_precision() -> str:
    """Return the policy of Keras in which TensorFlow's first GPU is fastest."""
    import tensorflow as tf

    gpu = tf.config.list_physical_devices("GPU")[0]
    capability = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
    # Tensor cores compute in bfloat16 from compute capability 8.0 on.
    return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16"


def _num_replicas() -> int:
    """Return the number of replicas among which TensorFlow divides batches in this context."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def _replicated(model: keras.Model) -> keras.Model:
    """Return a functional model in whose training all images of a batch count the same.

    Keras takes the mean over each replica's images, and the mean of those. Where replicas have different
    numbers of images, in the last batch of an epoch, the gradient is scaled by the replica's share of them.
    The value stays the mean over the replica's images: Keras weighs it by their number when it reports it.
    """
    import keras
    import tensorflow as tf

    class Replicated(keras.Model):  # type: ignore[misc]
        def compute_loss(self, x: Any, y: Any, *others: Any, training: bool = True, **named: Any) -> Any:
            loss = super().compute_loss(x, y, *others, training=training, **named)
            context = tf.distribute.get_replica_context()
            if not (training and context):  # context: Keras calls it once to learn the shapes
                return loss
            here = tf.cast(tf.shape(y)[0], loss.dtype)
            share = here * context.num_replicas_in_sync / context.all_reduce("sum", here)
            return loss + (share - 1.0) * (loss - tf.stop_gradient(loss))

        def _maybe_symbolic_build(self, **_: Any) -> None:
            # Keras would read a batch and take the mean of its parts, which may differ in size.
            shapes = (1, *self.input_shape[1:]), (1, *self.output_shape[1:])
            with self.distribute_strategy.scope():
                self._symbolic_build(data_batch=tuple(map(np.zeros, shapes)))

    return Replicated(model.inputs, model.outputs, name=model.name)


def _data_parallel(devices: Sequence[str]) -> keras.distribution.DataParallel:
    """Return a distribution that gives every device the whole batch; the model divides it.

    DataParallel itself divides batches, and cannot do so where they do not divide evenly.
    """
    import keras

    class WholeBatches(keras.distribution.DataParallel):  # type: ignore[misc]
        def get_data_layout(self, data_shape: Sequence[int]) -> keras.distribution.TensorLayout:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)

    return WholeBatches(devices=list(devices))


def _divide_batch(pixels: keras.KerasTensor) -> keras.KerasTensor:
    """Return the images divided among the devices of the distribution, where their number divides evenly."""
    import keras

    distribution = keras.distribution.distribution()
    layout = keras.distribution.TensorLayout(
        [distribution.batch_dim_name, None, None, None], distribution.device_mesh
    )

    class DivideBatch(keras.layers.Layer):  # type: ignore[misc]
        def call(self, pixels: Any) -> Any:
            if (pixels.shape[0] or 1) % distribution.num_model_replicas:
                return pixels
            return keras.distribution.distribute_tensor(pixels, layout)

    return DivideBatch(name="divide_batch")(pixels)
