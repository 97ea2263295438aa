"""The training loop: phases, epochs and steps, and a position to continue from after any interruption.

`Fitting` owns the network, the position in the plan (phase, epoch, step) and everything that a checkpoint
holds. It trains one epoch at a time with `model.fit`, so that the batches of an epoch depend only on the seed
and the epoch.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from hemaflow.infra.errors import Interrupted, StageError
from hemaflow.tasks.core.facts import AugmentFacts, IngestFacts
from hemaflow.tasks.core.history import EpochRow
from hemaflow.tasks.model.backbones import BACKBONES
from hemaflow.tasks.model.network import assemble, layer_index, unfreeze
from hemaflow.tasks.records.prefetch import PrefetchedShards
from hemaflow.tasks.records.tf_feed import VAL_BATCH_SIZE, num_steps, training_batches, validation_batches
from hemaflow.tasks.train import checkpoint
from hemaflow.tasks.train.checkpoint import Position
from hemaflow.tasks.train.devices import divided, enough_for_all, synchronize_batch_norm
from hemaflow.tasks.train.initial_weights import starting_network
from hemaflow.tasks.train.objective import balanced_weights, loss_of, optimizer_of
from hemaflow.tasks.train.schedules import Best, Plateau, cosine_with_warmup
from hemaflow.tasks.train.sigterm import on_sigterm
from hemaflow.tasks.train.weight_average import WeightAverage

if TYPE_CHECKING:
    import keras

    from hemaflow.infra.results.draft import Draft
    from hemaflow.tasks.core.stage import Parents
    from hemaflow.tasks.train.config import FineTuningConfig, ResolvedTrainConfig, TransferConfig


log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.npz"
PROGRESS_SECONDS = 1.0
"""Shortest time between two reports of progress."""
LAST_STAGE = "last-stage"
"""The value of train.fine_tuning.from_layer that means the last stage of the backbone."""


class Fitting:
    """A training that is running.

    Attributes:
        position: Where it stands.
        averaged_epochs: Number of epochs whose weights were averaged into the best weights; 0 for none.
    """

    def __init__(self, parents: Parents, config: ResolvedTrainConfig, draft: Draft) -> None:
        ingest, augment = parents["ingest"], parents["augment"]
        images = IngestFacts.of(ingest)
        self.config, self.draft, self.store = config, draft, parents.store
        self.image_pixels, self.classes = images.image_size_pixels, images.classes
        self.train_shards = PrefetchedShards(parents, augment.matching("train-"))
        self.val_shards = PrefetchedShards(parents, ingest.matching("val-"))
        self.num_examples = AugmentFacts.of(augment).num_examples
        self.num_val = images.num_examples["val"]
        self.phases: list[tuple[str, TransferConfig | FineTuningConfig]] = [
            (name, phase)
            for name, phase in (("transfer", config.transfer), ("fine-tuning", config.fine_tuning))
            if phase.epochs
        ]
        self.class_weights: tuple[float, ...] = ()
        if config.class_weights == "balanced":
            self.class_weights = balanced_weights(images.class_counts["train"])
        self.position = Position(Best(config.early_stopping_patience), self._new_plateau())
        self.best_weights: checkpoint.Arrays = []
        self.moving_weights: checkpoint.Arrays = []
        self.average = WeightAverage()
        self.averaged_epochs = 0
        self.stop_requested = False
        self._build()

    def run(self) -> None:
        """Train to the end, from a kept checkpoint where there is one. Raises Interrupted, StageError."""
        kept = self.draft.kept(CHECKPOINT)
        groups = self._restore_position(kept) if kept else None
        at = self.position
        with on_sigterm(self._request_stop):
            while at.phase < len(self.phases):
                self._begin_phase()
                if groups:
                    self._restore_variables(groups)
                    groups = None
                self._run_phase()
                if at.phase == len(self.phases) - 1:
                    self._try_average()
                self.model.set_weights(self.best_weights)
                at.phase, at.epoch, at.step = at.phase + 1, 0, 0
                # The best of both phases is kept; the patience starts again.
                at.best.waited, at.plateau = 0, self._new_plateau()

    def finished_model(self) -> keras.Model:
        """Return the model to save: the trained weights, without the online augmentation."""
        if self.phases:
            self.model.set_weights(self.best_weights)
        synchronize_batch_norm((self.body, self.head), together=False)
        return assemble(self.config.backbone, self.body, self.head, self.image_pixels, to_train=False)

    # Phases and epochs

    def _begin_phase(self) -> None:
        import keras

        name, phase = self.phases[self.position.phase]
        if name == "transfer":
            self.body.trainable = False
        else:
            train_batch_norm = self.config.fine_tuning.train_batch_norm
            unfreeze(self.body, self.first_layer, train_batch_norm=train_batch_norm)
        self.model.compile(
            optimizer=optimizer_of(self.config, phase.learning_rate),
            loss=loss_of(self.config),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            # On a CPU, TensorFlow's XLA runs convolutions slower than oneDNN, and mixed precision under it is
            # known to fail to learn. JAX is made for it.
            jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
        )
        self.model.optimizer.build(self.model.trainable_variables)

    def _run_phase(self) -> None:
        at = self.position
        _, phase = self.phases[at.phase]
        while at.epoch < phase.epochs and not at.best.should_stop:
            self._run_epoch()
            at.epoch, at.step, at.partial = at.epoch + 1, 0, (0.0, 0.0)
            self._keep_checkpoint()
            if self.stop_requested:
                self._interrupted()
        if not self.best_weights:
            self.best_weights = self.model.get_weights()

    def _run_epoch(self) -> None:
        at = self.position
        name, phase = self.phases[at.phase]
        number = len(at.history)
        started = time.monotonic()
        batches = training_batches(
            self.train_shards,
            self.image_pixels,
            len(self.classes),
            batch_size=self.batch_size,
            shuffle_buffer_images=self.config.shuffle_buffer_images,
            seed=self.config.seed,
            epoch=number,
            first_step=at.step,
            class_weights=self.class_weights,
        )
        try:
            self.model.fit(
                enough_for_all(batches),
                steps_per_epoch=self.steps_per_epoch - at.step,
                verbose=0,
                callbacks=[self._steps(number)],
                shuffle=False,
            )
        except Exception:
            self.train_shards.raise_failure()
            raise
        if self.config.ema_momentum:
            # Keras puts the averages themselves in the place of the weights: JAX would reuse their memory.
            self.model.set_weights(self.model.get_weights())
        if self.stop_requested and at.step < self.steps_per_epoch:
            self._put_back_weights()
            self._keep_checkpoint()
            self._interrupted()
        validated = self._validate()
        self._put_back_weights()
        row = EpochRow(
            epoch=number + 1,
            phase=name,
            # The sums of an interrupted epoch differ from those of an uninterrupted one in the last digits.
            loss=round(at.partial[0] / self.num_examples, 6),
            accuracy=round(at.partial[1] / self.num_examples, 6),
            val_loss=validated[0] if validated else None,
            val_accuracy=validated[1] if validated else None,
            learning_rate=float(self.model.optimizer.learning_rate.numpy()),
        )
        at.history.append(row)
        if validated:
            at.plateau.update(validated[0], phase.learning_rate)
        log.info("epoch %s in %.1f s", row.document(), time.monotonic() - started)

    def _validate(self) -> tuple[float, float] | None:
        """Measure the weights that would be kept (with EMA, their average); keep them if they are best."""
        at, measured = self.position, self._measure()
        if self._is_best(len(at.history) + 1, measured):
            self.best_weights = self.model.get_weights()
        last = at.phase == len(self.phases) - 1
        if last and at.epoch >= self.phases[-1][1].epochs - self.config.average_epochs:
            self.average.add(self.model.get_weights())
        return measured

    def _is_best(self, epoch: int, measured: tuple[float, float] | None) -> bool:
        """Return whether an epoch is the best so far; without validation images the newest is."""
        if measured:
            loss, accuracy = measured
            return self.position.best.update(epoch, accuracy, loss)
        self.position.best.epoch = epoch
        return True

    def _measure(self) -> tuple[float, float] | None:
        """Return loss and accuracy on the validation images; None where there are none."""
        if not self.num_val:
            return None
        batches = validation_batches(self.val_shards, self.image_pixels, len(self.classes), VAL_BATCH_SIZE)
        steps = num_steps(self.num_val, VAL_BATCH_SIZE)
        loss, accuracy = self.model.evaluate(batches, steps=steps, verbose=0)
        return float(loss), float(accuracy)

    def _try_average(self) -> None:
        """Keep the mean of the last epochs' weights if it is better than the best epoch."""
        if self.average.count < 2:
            return
        self.model.set_weights(self.average.mean)
        measured = self._measure()
        log.info("the mean of the last %d epochs: val loss and accuracy %s", self.average.count, measured)
        if self._is_best(len(self.position.history), measured):
            self.best_weights = self.model.get_weights()
            self.averaged_epochs = self.average.count

    def _take_weights(self) -> None:
        """Copy the weights as the optimizer left them: with EMA, `fit` ends by replacing them."""
        if self.config.ema_momentum:
            self.moving_weights = [variable.numpy() for variable in self.model.trainable_variables]

    def _put_back_weights(self) -> None:
        """Undo what the end of `fit` did to the weights, so that the next step starts from them."""
        if self.moving_weights:
            for variable, value in zip(self.model.trainable_variables, self.moving_weights, strict=True):
                variable.assign(value)
        self.moving_weights = []

    def _steps(self, number: int) -> keras.callbacks.Callback:
        """Return the callback that sets the rate of each step, counts, reports progress and obeys SIGTERM."""
        import keras

        fitting, at, name = self, self.position, self.phases[self.position.phase][0]
        first_step, before = at.step, at.partial
        total = self.steps_before(len(self.phases))
        began = time.monotonic()

        class Steps(keras.callbacks.Callback):  # type: ignore[misc]
            reported = began

            def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
                self.model.optimizer.learning_rate.assign(fitting._learning_rate())

            def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
                done = batch + 1
                at.step = first_step + done
                at.optimizer_steps += 1
                loss = float(logs["loss"])
                images = fitting.images_before(at.step) - fitting.images_before(first_step)
                if not math.isfinite(loss):
                    raise StageError(
                        f"The loss became {loss} in epoch {number + 1}, step {at.step}.",
                        remedy="Lower the learning rate, or train with --set train.mixed_precision=off.",
                    )
                now = time.monotonic()
                if now - self.reported > PROGRESS_SECONDS or at.step == fitting.steps_per_epoch:
                    self.reported = now
                    validated = at.history[-1].val_accuracy if at.history else None
                    last = "" if validated is None else f", val accuracy {validated:.4f}"
                    speed = images / (now - began)
                    fitting.draft.progress(
                        fitting.steps_before(at.phase) + at.epoch * fitting.steps_per_epoch + at.step,
                        total,
                        f"{name} epoch {number + 1}: loss {loss:.3f}{last}, {speed:.0f} images/s",
                    )
                if fitting.stop_requested:
                    self.model.stop_training = True

            def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
                # Here the means are over the images of all devices; within the epoch, roughly.
                images = fitting.images_before(at.step) - fitting.images_before(first_step)
                at.partial = (before[0] + logs["loss"] * images, before[1] + logs["accuracy"] * images)
                fitting._take_weights()

        return Steps()

    @property
    def batch_size(self) -> int:
        """Images per step of the present phase."""
        return self.phases[self.position.phase][1].batch_size or self.config.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps of each epoch of the present phase."""
        return num_steps(self.num_examples, self.batch_size)

    def steps_before(self, phase: int) -> int:
        """Return the number of steps in the plan before a phase."""
        sizes = ((p.epochs, p.batch_size or self.config.batch_size) for _, p in self.phases[:phase])
        return sum(epochs * num_steps(self.num_examples, size) for epochs, size in sizes)

    def images_before(self, step: int) -> int:
        """Return the number of images of an epoch before a step; its last batch may be smaller."""
        return min(step * self.batch_size, self.num_examples)

    def _learning_rate(self) -> float:
        at = self.position
        _, phase = self.phases[at.phase]
        if self.config.schedule == "plateau":
            return phase.learning_rate * at.plateau.scale
        if self.config.schedule == "constant":
            return phase.learning_rate
        warmup = round(self.config.warmup_epochs * self.steps_per_epoch)
        step = at.epoch * self.steps_per_epoch + at.step
        return phase.learning_rate * cosine_with_warmup(step, phase.epochs * self.steps_per_epoch, warmup)

    # Checkpoints

    def _keep_checkpoint(self) -> None:
        self.position.averaged = self.average.count
        groups = {
            "model": [variable.numpy() for variable in self.model.variables],
            "optimizer": [variable.numpy() for variable in self._optimizer_variables()],
            "best": self.best_weights,
            "average": self.average.mean,
        }
        self.draft.keep(CHECKPOINT, checkpoint.pack(self.position, groups))

    def _restore_position(self, kept: bytes) -> dict[str, checkpoint.Arrays]:
        """Take the position and the best weights from a checkpoint; return all its groups of arrays."""
        self.position, groups = checkpoint.unpack(kept)
        self.best_weights = groups["best"]
        self.average = WeightAverage(groups["average"], self.position.averaged)
        log.info("continuing from epoch %d, step %d", len(self.position.history) + 1, self.position.step)
        return groups

    def _restore_variables(self, groups: dict[str, checkpoint.Arrays]) -> None:
        for variables, name in (
            (self.model.variables, "model"),
            (self._optimizer_variables(), "optimizer"),
        ):
            for variable, value in zip(variables, groups[name], strict=True):
                variable.assign(value)

    def _optimizer_variables(self) -> list[keras.Variable]:
        """Return the optimizer's own variables, without the loss scale that float16 adds.

        So a training can continue on a device that computes in another precision; the scale adapts anew.
        """
        optimizer = self.model.optimizer
        variables: list[keras.Variable] = getattr(optimizer, "inner_optimizer", optimizer).variables
        return variables

    def _interrupted(self) -> None:
        raise Interrupted(
            f"Training was stopped after step {self.position.step} of epoch {self.position.epoch + 1}; "
            "a checkpoint is kept.",
            remedy="The same command continues from there.",
        )

    def _request_stop(self) -> None:
        """Have training end after the current step."""
        self.stop_requested = True

    # The network

    def _build(self) -> None:
        config = self.config
        self.body, self.head = starting_network(
            self.store, config, config.input_size_pixels or self.image_pixels, self.classes
        )
        from_layer = config.fine_tuning.from_layer
        if from_layer == LAST_STAGE:
            from_layer = BACKBONES[config.backbone].last_stage
        # Now: a missing layer must fail before hours of transfer, not after them.
        self.first_layer = layer_index(self.body, from_layer) if config.fine_tuning.epochs else 0
        synchronize_batch_norm((self.body, self.head))
        model = assemble(
            config.backbone,
            self.body,
            self.head,
            self.image_pixels,
            to_train=True,
            online=config.online,
            seed=config.seed,
        )
        self.model = divided(model)

    def _new_plateau(self) -> Plateau:
        config = self.config
        return Plateau(config.plateau_patience, config.plateau_factor, config.min_learning_rate)
