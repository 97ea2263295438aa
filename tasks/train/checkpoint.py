"""A training checkpoint: one atomic object with all that training needs to go on.

The object is an .npz without pickles: the model's variables (weights, BatchNorm statistics, states of random
layers), the optimizer's (step, moments, averages), the best weights so far, and a JSON document with where
training stands.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import StageError

Arrays = list[NDArray[Any]]


def pack(position: dict[str, Any], groups: Mapping[str, Sequence[NDArray[Any]]]) -> bytes:
    """Return the bytes of a checkpoint: a JSON-able position, and named groups of arrays."""
    arrays = {f"{name}/{index}": array for name, group in groups.items() for index, array in enumerate(group)}
    document = json.dumps(
        {"position": position, "groups": {name: len(group) for name, group in groups.items()}}
    )
    buffer = io.BytesIO()
    np.savez(buffer, document=np.frombuffer(document.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Arrays]]:
    """Return what `pack` was given. Raises StageError where the bytes are no checkpoint."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            document = json.loads(archive["document"].tobytes())
            groups = {
                name: [archive[f"{name}/{index}"] for index in range(count)]
                for name, count in document["groups"].items()
            }
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise StageError(
            "The checkpoint of an earlier run cannot be read.",
            received=str(error),
            remedy="Run with --from train to begin the training anew.",
        ) from error
    position: dict[str, Any] = document["position"]
    return position, groups
