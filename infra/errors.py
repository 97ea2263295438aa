"""Every error hemaflow raises on purpose.

HemaflowError
├── UserError            a mistake in what was asked; exit code 2, no stack trace
│   ├── ConfigError      an unknown name, a value out of its range
│   └── DataError        a source that cannot be read, or holds nothing to learn from
├── StageError           a stage could not do its work; exit code 1
│   └── Interrupted      the stage was asked to stop and left what it needs to go on
└── StoreError           the object store could not do what was asked; exit code 1
    ├── ObjectMissing    there is no object of that name
    ├── ObjectAltered    an object's bytes are not those that its manifest recorded
    ├── StoreFull        no space is left to write to
    ├── StoreUnavailable it cannot be reached, or fails for now: the same may go through later
    └── PromotionLost    another promotion changed the champion first
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


class HemaflowError(Exception):
    """What failed, what was expected, what was received, where, and what to do next.

    Args:
        what: One sentence: what failed.
        expected: What would have been right.
        received: What came instead.
        where: The file, row, object or setting it happened at.
        remedy: The next command to run, or the change to make.

    The text of the error has control characters written out: parts of it may come from data or a submission.

    Example:
        >>> import hemaflow
        >>> try:
        ...     hemaflow.run("sample", recipe="labtop")
        ... except hemaflow.HemaflowError as error:
        ...     print(error.what, error.remedy)
        There is no recipe 'labtop'. List them with: hemaflow recipes
    """

    exit_code = 1

    def __init__(
        self, what: str, *, expected: str = "", received: str = "", where: str = "", remedy: str = ""
    ) -> None:
        self.what, self.expected, self.received = what, expected, received
        self.where, self.remedy = where, remedy
        lines = [
            what,
            f"Expected: {expected}" if expected else "",
            f"Received: {received}" if received else "",
            f"Where: {where}" if where else "",
            remedy,
        ]
        super().__init__(printable("\n".join(line for line in lines if line)))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with the keyword arguments, which the default leaves out."""
        fields = {name: getattr(self, name) for name in ("expected", "received", "where", "remedy")}
        return _rebuild, (type(self), self.what, fields)


def _rebuild(kind: type[HemaflowError], what: str, fields: dict[str, str]) -> HemaflowError:
    return kind(what, **fields)


class UserError(HemaflowError):
    """A mistake in what was asked."""

    exit_code = 2


class ConfigError(UserError):
    """An unknown name, or a value out of its range."""


class DataError(UserError):
    """A data source that cannot be read, or holds nothing to learn from."""


class StageError(HemaflowError):
    """A stage could not do its work."""


class Interrupted(StageError):
    """The stage was asked to stop, and left behind what the next run needs to go on."""


class StoreError(HemaflowError):
    """The object store could not do what was asked."""


class ObjectMissing(StoreError):
    """There is no object of that name."""


class ObjectAltered(StoreError):
    """An object's bytes are not those that its manifest recorded."""


class StoreFull(StoreError):
    """No space is left to write to."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, or fails for now: the same request may go through later."""


class PromotionLost(StoreError):
    """Another promotion changed the champion first."""


MAX_GUESSES = 5
"""How many names that begin as the unknown one does are proposed; more are no help."""


def printable(text: str) -> str:
    r"""Return a text with control characters written out (`\x1b`), so that a terminal shows and obeys none.

    Line feeds and tabs stay. Marks that reorder text (U+202A to U+202E, U+2066 to U+2069) and lone surrogates
    are written out, too.
    """
    return "".join(
        ascii(character)[1:-1] if _is_hidden(character) and character not in "\n\t" else character
        for character in text
    )


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in _REORDERING


_REORDERING = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean 'x'? One of: a, b, c." for a name that is none of the known ones.

    Names that begin with the unknown one come first: `efficientnetv2` may mean any of its family.
    """
    names = sorted(known)
    by_lowercase = {candidate.lower(): candidate for candidate in names}
    begin = [candidate for candidate in names if name and candidate.lower().startswith(name.lower())]
    close = [
        by_lowercase[found]
        for found in difflib.get_close_matches(name.lower(), by_lowercase, n=1, cutoff=0.5)
    ]
    guesses = [repr(guess) for guess in (begin or close)[:MAX_GUESSES]]
    asked = f"Did you mean {' or '.join(guesses)}? " if guesses else ""
    return f"{asked}One of: {', '.join(names)}."
