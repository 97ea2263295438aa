"""Tables as CSV (RFC 4180, lines end in \\n): any text is read back as it was written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def write_table(rows: Iterable[Sequence[object]]) -> bytes:
    """Return rows, the header first, as CSV in UTF-8."""
    text = io.StringIO(newline="")
    usual = csv.writer(text, lineterminator="\n")
    # Before Python 3.13, the writer leaves a lone carriage return bare, and the reader refuses it.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        writer = quoted if any("\r" in value for value in row if isinstance(value, str)) else usual
        writer.writerow(row)
    return text.getvalue().encode()


def read_table(data: bytes) -> list[list[str]]:
    """Return the rows of `write_table`, the header first."""
    return list(csv.reader(io.StringIO(data.decode(), newline="")))
