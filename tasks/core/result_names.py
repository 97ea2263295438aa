"""Names of other runs' models in a config: `run:RUN` and `train:KEY`."""

from __future__ import annotations

import re

RUN = "run:"
"""Prefix of a run's model; `run:champion` is that of the champion."""
RESULT = "train:"
"""Prefix of a result of train."""


def check_result(name: str) -> str:
    """Return the name where its form is valid. Raises ValueError."""
    if name.startswith(RESULT) and not re.fullmatch("[0-9a-f]{64}", name.removeprefix(RESULT)):
        raise ValueError(
            "Expected train: and the whole key of a result, 64 letters (hemaflow show RUN --json), or run: "
            f"and a run. Received: {name}"
        )
    return name


def result_key(name: str) -> str:
    """Return the key of the result of train that a name gives; "" for other names."""
    return name.removeprefix(RESULT) if name.startswith(RESULT) else ""
