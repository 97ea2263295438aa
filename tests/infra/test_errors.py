"""Errors: their text is harmless on a terminal, whatever it came from."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemaflow.infra.errors import DataError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zelle ü 細胞\n\tb", "Zelle ü 細胞\n\tb"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("a\rb\x9b31m", r"a\rb\x9b31m"),
        ("gpj.\u202eexe\u2066", r"gpj.\u202eexe\u2066"),
        ("\udcff", r"\udcff"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_what_is_printable_stays_so(text: str) -> None:
    assert printable(printable(text)) == printable(text)
    printable(text).encode()


def test_the_text_of_an_error_obeys_nobody() -> None:
    error = DataError("It failed.", received="\x1b[2J", where="a\x07.zip")
    for each in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301
        assert str(each) == "It failed.\nReceived: \\x1b[2J\nWhere: a\\x07.zip"
        assert each.received == "\x1b[2J"
