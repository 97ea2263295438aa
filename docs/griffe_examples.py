"""Reads a docstring's "Example:" as code: griffe (2.4) takes only "Examples:" for doctests."""

from __future__ import annotations

import re

import griffe


class Examples(griffe.Extension):
    """Renames the section before it is read."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """See griffe.Extension."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
