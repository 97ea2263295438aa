"""What a person sees while a run goes: bars in a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hemaflow.flows.engine.engine import Decision

PLAIN_SECONDS = 5.0
"""How long the plain output stays silent between two lines of progress of a stage."""


class ConsoleObserver:
    """Shows every stage as a line, and its progress as a bar where a terminal can draw one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("  {task.description:<9}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed}/{task.total} {task.fields[text]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar: tuple[str, TaskID] | None = None
        self._last_line = 0.0

    def __enter__(self) -> ConsoleObserver:
        """Begin to draw."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()

    def begins(self, decision: Decision) -> None:
        """See Observer."""
        if decision.state == "run":
            self._console.print(
                f"[bold]{decision.stage:<9}[/] runs: {_escaped(decision.reason)}", highlight=False
            )

    def waits(self, stage: str) -> None:
        """See Observer."""
        self._console.print(f"[bold]{stage:<9}[/] waits: another run is making it")

    def progresses(self, stage: str, done: int, total: int, text: str) -> None:
        """See Observer."""
        if self._console.is_terminal:
            if self._bar is None or self._bar[0] != stage:
                self._end_bar()
                self._bar = (stage, self._bars.add_task(stage, total=total, text=text))
            self._bars.update(self._bar[1], completed=done, total=total, text=text)
        elif done == total or time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(f"{stage:<9} {done}/{total} {_escaped(text)}")

    def ends(self, decision: Decision, seconds: float) -> None:
        """See Observer."""
        self._end_bar()
        verb = f"reused: {decision.reason}" if decision.state == "reuse" else f"done in {seconds:.1f} s"
        self._console.print(f"[bold]{decision.stage:<9}[/] {_escaped(verb)}")

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar[1])
            self._bar = None


@contextmanager
def silenced() -> Iterator[None]:
    """Keep what libraries print below Python (TensorFlow's C++) off stderr; errors are raised as ever."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
