"""The training loop: phases, epochs, steps, and where it stands, so that it can go on after any cut.

`Fitting` owns the network, the position in the plan (phase, epoch, step) and everything that a checkpoint
holds. It trains one epoch at a time with `model.fit`, so that each epoch's batches are a function of the seed
and the epoch alone.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hemaflow.infra.errors import Interrupted, StageError
from hemaflow.tasks.model.backbones import BACKBONES
from hemaflow.tasks.model.network import assemble, layer_index, unfreeze
from hemaflow.tasks.records.prefetch import ArrivingShards
from hemaflow.tasks.records.tf_feed import VAL_BATCH_SIZE, num_steps, training_batches, validation_batches
from hemaflow.tasks.train import checkpoint
from hemaflow.tasks.train.initial_weights import starting_network
from hemaflow.tasks.train.objective import balanced_weights, loss_of, optimizer_of
from hemaflow.tasks.train.schedules import Best, Plateau, cosine_with_warmup, state
from hemaflow.tasks.train.weight_average import WeightAverage

if TYPE_CHECKING:
    from hemaflow.infra.results.draft import Draft
    from hemaflow.tasks.core.stage import Parents
    from hemaflow.tasks.train.config import FineTuningConfig, ResolvedTrainConfig, TransferConfig


log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.npz"
PROGRESS_SECONDS = 1.0
"""The shortest time between two reports of progress."""
LAST_STAGE = "last-stage"
"""What train.fine_tuning.from_layer is to begin at the last stage of the backbone."""


class Fitting:
    """A training under way.

    Attributes:
        history: One row per epoch that is done.
        optimizer_steps: Optimizer steps that led to the present weights, those before a cut included.
    """

    def __init__(self, parents: Parents, config: ResolvedTrainConfig, draft: Draft) -> None:
        ingest, augment = parents["ingest"], parents["augment"]
        self.config, self.draft = config, draft
        self.image_pixels = int(ingest.facts["image_size_pixels"])
        self.store = parents.store
        self.classes: list[str] = ingest.facts["classes"]
        self.num_classes = len(self.classes)
        self.train_shards = ArrivingShards(parents, augment.matching("train-"))
        self.val_shards = ArrivingShards(parents, ingest.matching("val-"))
        self.num_examples = int(augment.facts["num_examples"])
        self.num_val = int(ingest.facts["num_examples"]["val"])
        self.phases: list[tuple[str, TransferConfig | FineTuningConfig]] = [
            (name, phase)
            for name, phase in (("transfer", config.transfer), ("fine-tuning", config.fine_tuning))
            if phase.epochs
        ]
        self.class_weights: tuple[float, ...] = ()
        if config.class_weights == "balanced":
            self.class_weights = balanced_weights(ingest.facts["class_counts"]["train"])
        self.history: list[dict[str, Any]] = []
        self.optimizer_steps = 0
        self.phase = 0
        self.epoch = 0  # within the phase
        self.step = 0  # within the epoch
        self.partial = (0.0, 0.0)  # sums of loss and accuracy over the images of the epoch so far
        self.best = Best(config.early_stopping_patience)
        self.best_weights: checkpoint.Arrays = []
        self.moving_weights: checkpoint.Arrays = []
        self.average = WeightAverage()
        self.averaged_epochs = 0  # that are in the best weights
        self.plateau = self._new_plateau()
        self.asked_to_stop = False
        self._build()

    def run(self) -> None:
        """Train to the end, from a kept checkpoint where there is one. Raises Interrupted, StageError."""
        kept = self.draft.kept(CHECKPOINT)
        position, groups = checkpoint.unpack(kept) if kept else ({}, {})
        if position:
            self._restore_position(position, groups)
        with self._stopped_by_sigterm():
            while self.phase < len(self.phases):
                self._begin_phase()
                if position:
                    self._restore_variables(groups)
                    position = {}
                self._run_phase()
                if self.phase == len(self.phases) - 1:
                    self._try_average()
                self.model.set_weights(self.best_weights)
                self.phase, self.epoch, self.step = self.phase + 1, 0, 0
                # The best of both phases is kept; the patience begins anew.
                self.best.waited, self.plateau = 0, self._new_plateau()

    def finished_model(self) -> Any:
        """Return the model to save: the trained weights, without the online augmentation."""
        if self.phases:
            self.model.set_weights(self.best_weights)
        return assemble(self.config.backbone, self.body, self.head, self.image_pixels, to_train=False)

    # Phases and epochs

    def _begin_phase(self) -> None:
        name, phase = self.phases[self.phase]
        if name == "transfer":
            self.body.trainable = False
        else:
            unfreeze(self.body, self.first_layer, train_batch_norm=phase.train_batch_norm)  # type: ignore[union-attr]
        import keras

        self.model.compile(
            optimizer=optimizer_of(self.config, phase.learning_rate),
            loss=loss_of(self.config),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            # TensorFlow's XLA compiles convolutions slower than oneDNN runs them on a CPU, and mixed
            # precision under it has a history of not learning. JAX is made for it.
            jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
        )
        self.model.optimizer.build(self.model.trainable_variables)

    def _run_phase(self) -> None:
        _, phase = self.phases[self.phase]
        while self.epoch < phase.epochs and not self.best.should_stop:
            self._run_epoch()
            self.epoch, self.step, self.partial = self.epoch + 1, 0, (0.0, 0.0)
            self._keep_checkpoint()
            if self.asked_to_stop:
                self._interrupted()
        if not self.best_weights:
            self.best_weights = self.model.get_weights()

    def _run_epoch(self) -> None:
        name, phase = self.phases[self.phase]
        number = len(self.history)
        started = time.monotonic()
        batches = training_batches(
            self.train_shards,
            self.image_pixels,
            self.num_classes,
            batch_size=self.batch_size,
            shuffle_buffer_images=self.config.shuffle_buffer_images,
            seed=self.config.seed,
            epoch=number,
            first_step=self.step,
            class_weights=self.class_weights,
        )
        try:
            self.model.fit(
                batches,
                steps_per_epoch=self.steps_per_epoch - self.step,
                verbose=0,
                callbacks=[self._steps(number)],
                shuffle=False,
            )
        except Exception:
            self.train_shards.raise_failure()
            raise
        if self.asked_to_stop and self.step < self.steps_per_epoch:
            self._put_back_weights()
            self._keep_checkpoint()
            self._interrupted()
        validated = self._validate()
        self._put_back_weights()
        row = {
            "epoch": number + 1,
            "phase": name,
            # The sums of an epoch that was cut differ from those of a whole one in the last digits.
            "loss": round(self.partial[0] / self.num_examples, 6),
            "accuracy": round(self.partial[1] / self.num_examples, 6),
            **validated,
            "learning_rate": float(self.model.optimizer.learning_rate),
        }
        self.history.append(row)
        if self.num_val:
            self.plateau.see(validated["val_loss"], phase.learning_rate)
        log.info("epoch %s in %.1f s", row, time.monotonic() - started)

    def _validate(self) -> dict[str, float]:
        """Measure the weights that would be kept (the averaged ones, with EMA), and keep them if best."""
        logs = self._measure()
        if self._is_best(len(self.history) + 1, logs):
            self.best_weights = self.model.get_weights()
        last = self.phase == len(self.phases) - 1
        if last and self.epoch >= self.phases[-1][1].epochs - self.config.average_epochs:
            self.average.add(self.model.get_weights())
        return logs

    def _is_best(self, epoch: int, logs: dict[str, float]) -> bool:
        """Return whether what was measured is the best so far; without val images the newest is."""
        if self.num_val:
            return self.best.see(epoch, logs["val_accuracy"], logs["val_loss"])
        self.best.epoch = epoch
        return True

    def _measure(self) -> dict[str, float]:
        """Return loss and accuracy on val; nothing where it has no images."""
        if not self.num_val:
            return {}
        batches = validation_batches(self.val_shards, self.image_pixels, self.num_classes, VAL_BATCH_SIZE)
        steps = num_steps(self.num_val, VAL_BATCH_SIZE)
        loss, accuracy = self.model.evaluate(batches, steps=steps, verbose=0)
        return {"val_loss": float(loss), "val_accuracy": float(accuracy)}

    def _try_average(self) -> None:
        """Keep the mean of the last epochs' weights if it is better than the best epoch's."""
        if self.average.count < 2:
            return
        self.model.set_weights(self.average.mean)
        logs = self._measure()
        log.info("the mean of the last %d epochs: %s", self.average.count, logs)
        if self._is_best(len(self.history), logs):
            self.best_weights = self.model.get_weights()
            self.averaged_epochs = self.average.count

    def _take_weights(self) -> None:
        """Copy the weights as the optimizer left them: with EMA, `fit` ends by overwriting them."""
        if self.config.ema_momentum:
            self.moving_weights = [variable.numpy() for variable in self.model.trainable_variables]

    def _put_back_weights(self) -> None:
        """Undo what the end of `fit` did to the weights, so that the next step goes on from them."""
        if self.moving_weights:
            for variable, value in zip(self.model.trainable_variables, self.moving_weights, strict=True):
                variable.assign(value)
        self.moving_weights = []

    def _steps(self, number: int) -> Any:
        """Return the Keras callback that sets each step's rate, counts, reports and heeds SIGTERM."""
        import keras

        fitting, name = self, self.phases[self.phase][0]
        first_step, before = self.step, self.partial
        total = self.steps_before(len(self.phases))
        began = time.monotonic()

        class Steps(keras.callbacks.Callback):  # type: ignore[misc]
            reported = began

            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                self.model.optimizer.learning_rate.assign(fitting._learning_rate())

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                done = batch + 1
                fitting.step = first_step + done
                fitting.optimizer_steps += 1
                loss, accuracy = float(logs["loss"]), float(logs["accuracy"])
                images = fitting.images_before(fitting.step) - fitting.images_before(first_step)
                fitting.partial = (before[0] + loss * images, before[1] + accuracy * images)
                if not math.isfinite(loss):
                    raise StageError(
                        f"The loss became {loss} in epoch {number + 1}, step {fitting.step}.",
                        remedy="Lower the learning rate, or train with --set train.mixed_precision=off.",
                    )
                now = time.monotonic()
                if now - self.reported > PROGRESS_SECONDS or fitting.step == fitting.steps_per_epoch:
                    self.reported = now
                    rate = images / (now - began)
                    validated = fitting.num_val and fitting.history
                    last = f", val accuracy {validated[-1]['val_accuracy']:.4f}" if validated else ""
                    fitting.draft.progress(
                        fitting.steps_before(fitting.phase)
                        + fitting.epoch * fitting.steps_per_epoch
                        + fitting.step,
                        total,
                        f"{name} epoch {number + 1}: loss {loss:.3f}{last}, {rate:.0f} images/s",
                    )
                if fitting.asked_to_stop:
                    self.model.stop_training = True

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                fitting._take_weights()

        return Steps()

    @property
    def batch_size(self) -> int:
        """Images per step of the present phase."""
        return self.phases[self.phase][1].batch_size or self.config.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps of each epoch of the present phase."""
        return num_steps(self.num_examples, self.batch_size)

    def steps_before(self, phase: int) -> int:
        """Return how many steps of the plan lie before a phase."""
        sizes = ((p.epochs, p.batch_size or self.config.batch_size) for _, p in self.phases[:phase])
        return sum(epochs * num_steps(self.num_examples, size) for epochs, size in sizes)

    def images_before(self, step: int) -> int:
        """Return how many images of an epoch come before a step; its last batch may be smaller."""
        return min(step * self.batch_size, self.num_examples)

    def _learning_rate(self) -> float:
        _, phase = self.phases[self.phase]
        if self.config.schedule == "plateau":
            return phase.learning_rate * self.plateau.scale
        if self.config.schedule == "constant":
            return phase.learning_rate
        warmup = round(self.config.warmup_epochs * self.steps_per_epoch)
        step = self.epoch * self.steps_per_epoch + self.step
        return phase.learning_rate * cosine_with_warmup(step, phase.epochs * self.steps_per_epoch, warmup)

    # Checkpoints

    def _keep_checkpoint(self) -> None:
        position = {
            "phase": self.phase,
            "epoch": self.epoch,
            "step": self.step,
            "partial": self.partial,
            "optimizer_steps": self.optimizer_steps,
            "history": self.history,
            "best": state(self.best),
            "averaged": self.average.count,
            "plateau": state(self.plateau),
        }
        groups = {
            "model": [variable.numpy() for variable in self.model.variables],
            "optimizer": [variable.numpy() for variable in self._optimizer_variables()],
            "best": self.best_weights,
            "average": self.average.mean,
        }
        self.draft.keep(CHECKPOINT, checkpoint.pack(position, groups))

    def _restore_position(self, position: dict[str, Any], groups: dict[str, checkpoint.Arrays]) -> None:
        self.phase, self.epoch, self.step = position["phase"], position["epoch"], position["step"]
        self.partial = (position["partial"][0], position["partial"][1])
        self.optimizer_steps, self.history = position["optimizer_steps"], position["history"]
        self.best, self.plateau = Best(**position["best"]), Plateau(**position["plateau"])
        self.best_weights = groups["best"]
        self.average = WeightAverage(groups["average"], position["averaged"])
        log.info("going on from epoch %d, step %d", len(self.history) + 1, self.step)

    def _restore_variables(self, groups: dict[str, checkpoint.Arrays]) -> None:
        for variables, name in (
            (self.model.variables, "model"),
            (self._optimizer_variables(), "optimizer"),
        ):
            for variable, value in zip(variables, groups[name], strict=True):
                variable.assign(value)

    def _optimizer_variables(self) -> Any:
        """Return the optimizer's own variables, without the scale of the loss that float16 has beside them.

        So a training goes on on a device that computes in another precision; the scale finds itself anew.
        """
        optimizer = self.model.optimizer
        return getattr(optimizer, "inner_optimizer", optimizer).variables

    def _interrupted(self) -> None:
        raise Interrupted(
            f"Training was stopped after step {self.step} of epoch {self.epoch + 1}; a checkpoint is kept.",
            remedy="The same command goes on from there.",
        )

    @contextmanager
    def _stopped_by_sigterm(self) -> Iterator[None]:
        """Let SIGTERM end training after the step that is under way. Only the main thread may listen."""

        def stop(*_: object) -> None:
            self.asked_to_stop = True

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)

    # The network

    def _build(self) -> None:
        config = self.config
        self.body, self.head = starting_network(
            self.store, config, config.input_size_pixels or self.image_pixels, self.classes
        )
        from_layer = config.fine_tuning.from_layer
        if from_layer == LAST_STAGE:
            from_layer = BACKBONES[config.backbone].last_stage
        # Now: a layer that is not there must not be found out after hours of transfer.
        self.first_layer = layer_index(self.body, from_layer) if config.fine_tuning.epochs else 0
        self.model = assemble(
            config.backbone,
            self.body,
            self.head,
            self.image_pixels,
            to_train=True,
            online=config.online,
            seed=config.seed,
        )

    def _new_plateau(self) -> Plateau:
        config = self.config
        return Plateau(config.plateau_patience, config.plateau_factor, config.min_learning_rate)
