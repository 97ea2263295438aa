"""Names of other runs' models in a config: `run:RUN` and `train:KEY`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


RUN = "run:"
"""How the name of a run's model begins; `run:champion` is that of the champion."""
RESULT = "train:"
"""How the name of a result of train begins."""


def check_result(name: str) -> str:
    """Return the name of a result, or any that is none, of the right form. Raises ValueError."""
    if name.startswith(RESULT) and not re.fullmatch("[0-9a-f]{64}", name.removeprefix(RESULT)):
        raise ValueError(
            "Expected train: and the whole key of a result, 64 letters (hemaflow show RUN --json), or run: "
            f"and a run. Received: {name}"
        )
    return name


def result_key(name: str) -> str:
    """Return the key of the result of train that is named; "" where none is."""
    return name.removeprefix(RESULT) if name.startswith(RESULT) else ""
