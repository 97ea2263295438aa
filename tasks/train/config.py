"""Config of train: everything that changes the weights of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from hemaflow.infra.errors import ConfigError
from hemaflow.infra.store.base import file_sha256
from hemaflow.tasks.core.result_names import RESULT, RUN, check_result, result_key
from hemaflow.tasks.core.stage import StageConfig
from hemaflow.tasks.layers.online import OnlineLayer
from hemaflow.tasks.model.backbones import BACKBONES, check_backbone

UnitInterval = Annotated[float, Field(ge=0.0, le=1.0)]
WEIGHT_FILE_SUFFIXES = (".h5", ".keras")


class TransferConfig(StageConfig):
    """The first phase: the backbone is frozen, BatchNorm included; only the head learns."""

    epochs: NonNegativeInt = 0
    """Passes over the shards; 0 leaves the phase out."""
    learning_rate: PositiveFloat = 1e-3
    """The peak."""
    batch_size: NonNegativeInt = 0
    """Images per step in this phase; 0 for train.batch_size."""


class FineTuningConfig(StageConfig):
    """The second phase: part of the backbone, or all of it, learns too."""

    epochs: NonNegativeInt = 8
    """Passes over the shards; 0 leaves the phase out."""
    learning_rate: PositiveFloat = 1e-3
    """The peak."""
    batch_size: NonNegativeInt = 0
    """Images per step in this phase; 0 for train.batch_size."""
    from_layer: int | str = 0
    """The first layer of the backbone that learns: its name or index, or `last-stage` for the one that the
    table of backbones names; 0 is the whole backbone."""
    train_batch_norm: bool = True
    """Whether BatchNorm layers of the backbone learn too; false keeps their ImageNet statistics."""


class TrainConfig(StageConfig):
    """All that changes the weights; all of it enters the stage key."""

    backbone: str = "cnn"
    """A row of the table in tasks/model/backbones.py."""
    initial_weights: str = "none"
    """`imagenet`, `none`, a file of weights of the backbone without its top (.h5 or .keras), or the model of
    another run in the store: `run:RUN`, `run:champion`, or `train:KEY` for a result
    (tasks/train/initial_weights.py)."""
    initial_weights_sha256: str = ""
    """Of the file or the run's model: what enters the key instead of its path or key. Filled in from it."""
    initial_classes: tuple[str, ...] = ()
    """The classes of the run's model; where they are those of the data, its head is used too. Filled in."""
    ensemble_of: tuple[str, ...] = ()
    """Models whose probabilities are averaged, instead of training one (tasks/train/ensemble.py): `run:RUN`,
    `run:champion` or `train:KEY`, two or more of the same store. Nothing else of train then counts."""
    ensemble_sha256: tuple[str, ...] = ()
    """Of these models: what enters the key instead of their names. Filled in."""
    input_size_pixels: NonNegativeInt = 0
    """Images are resized (bilinear) to this size in the model; 0 keeps the size of the data."""
    head_units: tuple[PositiveInt, ...] = (512, 256)
    """Dense layers of the head, each with BatchNorm and Dropout; the seed project's."""
    dropout: UnitInterval = 1 / 6
    """In every block of the head; the seed project's."""
    transfer: TransferConfig = TransferConfig()
    fine_tuning: FineTuningConfig = FineTuningConfig()
    optimizer: Literal["adamw", "adam", "lion", "sgd"] = "adamw"
    """SGD has Nesterov momentum 0.9."""
    weight_decay: NonNegativeFloat = 0.004
    """Decoupled, for all optimizers but adam; 0.004 is Keras' own for AdamW (arXiv:1711.05101)."""
    gradient_clip_norm: NonNegativeFloat = 0.0
    """The largest norm of all gradients together (arXiv:1211.5063); 0 leaves them as they are."""
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    """How the learning rate of a phase goes on from its peak."""
    warmup_epochs: NonNegativeFloat = 1.0
    """Linear warm-up at the start of each phase, for `cosine`."""
    plateau_patience: PositiveInt = 3
    """For `plateau`: epochs without a lower val_loss before the rate is multiplied by plateau_factor."""
    plateau_factor: UnitInterval = 0.5
    """For `plateau`."""
    min_learning_rate: NonNegativeFloat = 1e-6
    """For `plateau`: where it ends."""
    loss: Literal["categorical_crossentropy", "focal"] = "categorical_crossentropy"
    """What is minimised; both take the soft labels of CutMix and MixUp. val_loss is the same, unweighted."""
    focal_gamma: NonNegativeFloat = 2.0
    """For `focal`: how little what is right already counts (arXiv:1708.02002)."""
    focal_alpha: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    """For `focal`: a factor on all of it (arXiv:1708.02002)."""
    label_smoothing: UnitInterval = 0.1
    """arXiv:1512.00567."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs each image by how rare its class is in the training split (tasks/train/objective.py),
    one with a soft label by its shares; in training only, not in accuracy, val_loss or val_accuracy."""
    early_stopping_patience: NonNegativeInt = 0
    """Epochs of a phase without a better val_accuracy before it ends; 0 never ends it."""
    ema_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Moving average of the weights, which is validated and kept instead of them; 0 for none.

    BatchNorm's statistics stay those of the weights themselves: of use where the rate ends low (cosine).
    """
    average_epochs: NonNegativeInt = 0
    """Of the last phase, how many last epochs' weights are averaged (tasks/train/weight_average.py): what
    comes of it is validated, and kept where it is better than the best epoch; 0 averages none. A phase that
    early stopping ends before them has no such epochs."""
    mixed_precision: Literal["off", "auto"] = "auto"
    """`auto` computes in half precision on a GPU (bfloat16 where it can, else float16), never on a CPU."""
    batch_size: PositiveInt = 64
    """Images per step, all devices together."""
    shuffle_buffer_images: PositiveInt = 4096
    """How many records are mixed; bounds the memory of the feed."""
    online: tuple[OnlineLayer, ...] = ()
    """Random layers in front of the network while it trains; not in the saved model."""
    seed: NonNegativeInt = 0
    """Of the initial weights, the order of the images, dropout and online augmentation."""

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, name: str) -> str:
        return check_backbone(name)

    @field_validator("initial_weights")
    @classmethod
    def _known_form(cls, weights: str) -> str:
        return check_result(weights)

    @field_validator("ensemble_of")
    @classmethod
    def _known_members(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not check_result(name).startswith((RUN, RESULT)):
                raise ValueError(f"Expected run: and a run, or train: and a key. Received: {name}")
        if len(names) == 1:
            raise ValueError("An ensemble has two members or more.")
        return names

    @model_validator(mode="after")
    def _has_imagenet_weights(self) -> Self:
        if self.initial_weights == "imagenet" and not BACKBONES[self.backbone].application:
            raise ValueError(
                f"There are no ImageNet weights of {self.backbone}: it is trained from scratch, or from a "
                "file or a run. Choose another backbone (hemaflow backbones), or initial_weights=none."
            )
        return self

    @model_validator(mode="after")
    def _input_is_large_enough(self) -> Self:
        least = BACKBONES[self.backbone].min_pixels
        if 0 < self.input_size_pixels < least:
            raise ValueError(
                f"The backbone {self.backbone} takes images of at least {least} pixels. "
                f"Received: input_size_pixels={self.input_size_pixels}"
            )
        return self

    def resolved(self) -> TrainConfig:
        """Return the config with the hash of its weights file. Raises ConfigError where there is none."""
        if self.initial_weights in ("imagenet", "none") or result_key(self.initial_weights):
            return self
        path = Path(self.initial_weights).expanduser()
        if path.suffix not in WEIGHT_FILE_SUFFIXES or not path.is_file():
            raise ConfigError(
                "The initial weights cannot be used.",
                expected="imagenet, none, run:RUN, or an existing .h5 or .keras file",
                received=self.initial_weights,
                where="train.initial_weights",
                remedy="Check the path, or train from scratch with --set train.initial_weights=none.",
            )
        return self.model_copy(
            update={"initial_weights": str(path.absolute()), "initial_weights_sha256": file_sha256(path)}
        )

    def key_document(self) -> dict[str, Any]:
        """Return what enters the key: of a weights file or a model its content, not where it lies."""
        document = super().key_document()
        if result_key(self.initial_weights):
            document["initial_weights"] = "model"
        elif self.initial_weights_sha256:
            document["initial_weights"] = Path(self.initial_weights).name
        if self.ensemble_sha256:
            document["ensemble_of"] = ["model"] * len(self.ensemble_of)
        return document
