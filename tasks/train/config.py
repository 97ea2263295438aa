"""Config of train: everything that changes the weights of the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from hemaflow.infra.errors import ConfigError, UserError
from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.store.base import Store, file_sha256
from hemaflow.tasks.core.facts import TrainFacts
from hemaflow.tasks.core.result_names import RESULT, RUN, check_result, result_key
from hemaflow.tasks.core.stage import OnlyWith, StageConfig
from hemaflow.tasks.layers.online import OnlineLayer
from hemaflow.tasks.model.backbones import BACKBONES, check_backbone
from hemaflow.tasks.model.ensembles import ENSEMBLE

UnitInterval = Annotated[float, Field(ge=0.0, le=1.0)]
WEIGHT_FILE_SUFFIXES = (".h5", ".keras")
TRAINED = OnlyWith("epochs", words="epochs above 0")
HEAD_BLOCKS = OnlyWith("head_units", words="head_units that are not empty")
DECOUPLED_DECAY = OnlyWith("optimizer", ("adamw", "lion", "sgd"))
COSINE = OnlyWith("schedule", ("cosine",))
PLATEAU = OnlyWith("schedule", ("plateau",))
FOCAL = OnlyWith("loss", ("focal",))


class TransferConfig(StageConfig):
    """The first phase: the backbone is frozen, BatchNorm included; only the head learns."""

    epochs: NonNegativeInt = 0
    """Passes over the shards; 0 leaves the phase out."""
    learning_rate: Annotated[PositiveFloat, TRAINED] = 1e-3
    """Peak learning rate of the phase."""
    batch_size: Annotated[NonNegativeInt, TRAINED] = 0
    """Images per step in this phase; 0 takes train.batch_size."""


class FineTuningConfig(StageConfig):
    """The second phase: part of the backbone, or all of it, learns too."""

    epochs: NonNegativeInt = 8
    """Passes over the shards; 0 leaves the phase out."""
    learning_rate: Annotated[PositiveFloat, TRAINED] = 1e-3
    """Peak learning rate of the phase."""
    batch_size: Annotated[NonNegativeInt, TRAINED] = 0
    """Images per step in this phase; 0 takes train.batch_size."""
    from_layer: Annotated[int | str, TRAINED] = 0
    """First layer of the backbone that learns: its name, its index, or `last-stage` (see `hemaflow
    backbones`); 0 trains the whole backbone."""
    train_batch_norm: Annotated[bool, TRAINED] = True
    """Whether BatchNorm layers of the backbone learn too; false keeps their ImageNet statistics."""


class TrainConfig(StageConfig):
    """All that changes the weights; all of it enters the stage key, as far as it has an effect."""

    backbone: str = "cnn"
    """Network that turns pixels into features, by its name in `hemaflow backbones`."""
    initial_weights: str = "none"
    """Weights that training starts from: `none`, `imagenet`, a weights file of the backbone without its top
    (.h5 or .keras), or a model in the store: `run:RUN`, `run:champion` or `train:KEY`."""
    ensemble_of: tuple[str, ...] = ()
    """Models of the store whose probabilities are averaged instead of training one, two or more of `run:RUN`,
    `run:champion` or `train:KEY`; all other fields of train have no effect then."""
    input_size_pixels: NonNegativeInt = 0
    """Size that the model resizes images to (bilinear); 0 keeps the size of the data."""
    head_units: tuple[PositiveInt, ...] = (512, 256)
    """Units of each dense layer of the head; BatchNorm and Dropout follow each. The default is the seed
    project's."""
    dropout: Annotated[UnitInterval, HEAD_BLOCKS] = 1 / 6
    """Dropout rate after each dense layer of the head. The default is the seed project's."""
    transfer: TransferConfig = TransferConfig()
    fine_tuning: FineTuningConfig = FineTuningConfig()
    optimizer: Literal["adamw", "adam", "lion", "sgd"] = "adamw"
    """Optimizer; sgd has Nesterov momentum 0.9."""
    weight_decay: Annotated[NonNegativeFloat, DECOUPLED_DECAY] = 0.004
    """Decoupled weight decay (arXiv:1711.05101), for every optimizer but adam; the default is Keras' own."""
    gradient_clip_norm: NonNegativeFloat = 0.0
    """Largest norm of all gradients together (arXiv:1211.5063); 0 does not clip."""
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    """How the learning rate of a phase changes from its peak on."""
    warmup_epochs: Annotated[NonNegativeFloat, COSINE] = 1.0
    """Epochs of linear warm-up at the start of each phase, for the schedule cosine."""
    plateau_patience: Annotated[PositiveInt, PLATEAU] = 3
    """Epochs without a lower val_loss before the schedule plateau lowers the learning rate."""
    plateau_factor: Annotated[UnitInterval, PLATEAU] = 0.5
    """Factor by which the schedule plateau lowers the learning rate."""
    min_learning_rate: Annotated[NonNegativeFloat, PLATEAU] = 1e-6
    """Learning rate below which the schedule plateau does not go."""
    loss: Literal["categorical_crossentropy", "focal"] = "categorical_crossentropy"
    """Loss that training minimises; both take the soft labels of CutMix and MixUp. val_loss is the same,
    without class weights."""
    focal_gamma: Annotated[NonNegativeFloat, FOCAL] = 2.0
    """Exponent of the focal loss (arXiv:1708.02002): the larger, the less the images count that are right."""
    focal_alpha: Annotated[float, Field(gt=0.0, le=1.0), FOCAL] = 0.25
    """Constant factor of the focal loss (arXiv:1708.02002)."""
    label_smoothing: UnitInterval = 0.1
    """Share of each label that is spread over all classes (arXiv:1512.00567)."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs each image by how rare its class is in the training split; one with a soft label, by
    its shares. Accuracy, val_loss and val_accuracy are not weighted."""
    early_stopping_patience: NonNegativeInt = 0
    """Epochs of a phase without a better val_accuracy before the phase ends; 0 never ends it early."""
    ema_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Momentum of the moving average of the weights, which is validated and kept instead of them; 0 for none.

    BatchNorm's statistics are not averaged: of use where the learning rate ends low (cosine).
    """
    average_epochs: NonNegativeInt = 0
    """Number of last epochs of the last phase whose weights are averaged (arXiv:1803.05407), two or more; 0
    averages none. The average is kept where it validates better than the best epoch. A phase that early
    stopping ends before these epochs has no average."""
    mixed_precision: Literal["off", "auto"] = "auto"
    """`auto` computes in half precision on a GPU (bfloat16 where it can, else float16), never on a CPU."""
    batch_size: PositiveInt = 64
    """Images per step, all devices together."""
    shuffle_buffer_images: PositiveInt = 4096
    """Number of images that are shuffled at a time; limits the memory of the input pipeline."""
    online: tuple[OnlineLayer, ...] = ()
    """Random layers in front of the network while it trains; the saved model does not have them."""
    seed: NonNegativeInt = 0
    """Random seed of the initial weights, the order of the images, dropout and online augmentation."""

    @classmethod
    def without_effect(cls, config: Mapping[str, object]) -> dict[str, str]:
        """Return the fields that have no effect: all others in an ensemble, and what `OnlyWith` says."""
        if config["ensemble_of"]:
            return {
                name: "an empty ensemble_of" for name in TrainConfig.model_fields if name != "ensemble_of"
            }
        return super().without_effect(config)

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

    @field_validator("average_epochs")
    @classmethod
    def _averages_several(cls, epochs: int) -> int:
        if epochs == 1:
            raise ValueError("The average of one epoch is that epoch. Expected 0, or 2 or more.")
        return epochs

    def resolved(self, store: Store) -> ResolvedTrainConfig:
        """Return the config with what the key holds of the files and models that it names.

        Raises:
            ConfigError: There is no such file, or the model to start from has another backbone.
            UserError: There is no such model in the store.
        """
        weights, looked_up = self.initial_weights, dict[str, object]()
        if result_key(weights):
            model = _model(store, weights, "train.initial_weights")
            _check_backbone(TrainFacts.of(model), weights, self.backbone)
            looked_up["initial_weights_sha256"] = model.object("model.keras").sha256
            looked_up["initial_classes"] = tuple(TrainFacts.of(model).classes)
        elif weights not in ("imagenet", "none"):
            path = _weights_file(weights)
            looked_up |= {"initial_weights": str(path), "initial_weights_sha256": file_sha256(path)}
        members = [_model(store, name, "train.ensemble_of") for name in self.ensemble_of]
        looked_up["ensemble_sha256"] = tuple(member.object("model.keras").sha256 for member in members)
        return ResolvedTrainConfig.model_validate(dict(self) | looked_up)


class ResolvedTrainConfig(TrainConfig):
    """A config with what was looked up of the files and models that it names: what the stage works with."""

    initial_weights_sha256: str = ""
    """SHA-256 of the weights file or the model that training starts from; empty where there is neither."""
    initial_classes: tuple[str, ...] = ()
    """Classes of the model that training starts from; its head is used where they are those of the data."""
    ensemble_sha256: tuple[str, ...] = ()
    """SHA-256 of each model of the ensemble."""

    def key_document(self) -> dict[str, object]:
        """Return what enters the key: of a weights file or a model its content, not where it lies."""
        document = super().key_document()
        looked_up = set(ResolvedTrainConfig.model_fields) - set(TrainConfig.model_fields)
        document = {name: value for name, value in document.items() if value or name not in looked_up}
        if self.ensemble_of:
            document["ensemble_of"] = ["model"] * len(self.ensemble_of)
        elif result_key(self.initial_weights):
            document["initial_weights"] = "model"
        elif self.initial_weights_sha256:
            document["initial_weights"] = Path(self.initial_weights).name
        return document


def _weights_file(name: str) -> Path:
    path = Path(name).expanduser()
    if path.suffix not in WEIGHT_FILE_SUFFIXES or not path.is_file():
        raise ConfigError(
            "The initial weights cannot be used.",
            expected="imagenet, none, run:RUN, or an existing .h5 or .keras file",
            received=name,
            where="train.initial_weights",
            remedy="Check the path, or train from scratch with --set train.initial_weights=none.",
        )
    return path.absolute()


def _model(store: Store, name: str, field: str) -> Manifest:
    """Return the result of train that a field names as `train:KEY`. Raises UserError."""
    found = load_manifest(store, "train", result_key(name))
    if found is None:
        raise UserError(
            "There is no such model in this store.",
            expected="the key of a complete result of train",
            received=f"{field}={name}",
            where=f"{store.url}/stages/train/{result_key(name)}",
            remedy="See the keys of a run with: hemaflow show RUN --json",
        )
    return found[0]


def _check_backbone(model: TrainFacts, name: str, backbone: str) -> None:
    if model.backbone == ENSEMBLE:
        raise ConfigError(
            f"Training cannot start from {name}: it is an ensemble, of several models.",
            where="train.initial_weights",
            remedy="Name the run of one of its members.",
        )
    if model.backbone != backbone:
        raise ConfigError(
            f"Training cannot start from {name}: it has another backbone.",
            expected=f"train.backbone={backbone}",
            received=f"train.backbone={model.backbone}",
            where="train.initial_weights",
            remedy=f"Set --set train.backbone={model.backbone}, or name a run with {backbone}.",
        )
