"""A training checkpoint: one atomic object with all that training needs to continue.

The object is an .npz without pickles: the model's variables (weights, BatchNorm statistics, states of random
layers), the optimizer's (step, moments, averages), the best weights so far, and the position as JSON.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from hemaflow.infra.errors import StageError
from hemaflow.tasks.core.history import EpochRow
from hemaflow.tasks.train.schedules import Best, Plateau

Array = NDArray[np.generic]
Arrays = list[Array]


@dataclass
class Position:
    """Where a training stands.

    Attributes:
        phase: Index of the phase.
        epoch: Complete epochs of the phase.
        step: Complete steps of the epoch.
        partial: Sums of loss and accuracy over the images of the epoch so far.
        optimizer_steps: Optimizer steps that led to the present weights, before and after interruptions.
        history: One row for each complete epoch.
        best: The best epoch so far.
        averaged: Number of epochs in the running mean of the weights.
        plateau: State of the plateau schedule.
    """

    best: Best
    plateau: Plateau
    phase: int = 0
    epoch: int = 0
    step: int = 0
    partial: tuple[float, float] = (0.0, 0.0)
    optimizer_steps: int = 0
    history: list[EpochRow] = field(default_factory=list)
    averaged: int = 0


_POSITION = TypeAdapter(Position)


def pack(position: Position, groups: Mapping[str, Sequence[Array]]) -> bytes:
    """Return the bytes of a checkpoint: a position, and named groups of arrays."""
    arrays = {f"{name}/{index}": array for name, group in groups.items() for index, array in enumerate(group)}
    document = json.dumps(
        {"position": asdict(position), "groups": {name: len(group) for name, group in groups.items()}}
    )
    buffer = io.BytesIO()
    np.savez(buffer, document=np.frombuffer(document.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[Position, dict[str, Arrays]]:
    """Return what `pack` was given. Raises StageError where the bytes are no checkpoint."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            document = json.loads(archive["document"].tobytes())
            groups = {
                name: [archive[f"{name}/{index}"] for index in range(count)]
                for name, count in document["groups"].items()
            }
            return _POSITION.validate_python(document["position"]), groups
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, ValidationError) as error:
        raise StageError(
            "The checkpoint of an earlier run cannot be read.",
            received=str(error),
            remedy="Run with --from train to start the training again.",
        ) from error
