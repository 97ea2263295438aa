"""Shows the progress of a run: bars in a terminal or a notebook, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hemaflow.flows.engine.engine import Decision
from hemaflow.flows.engine.observer import Observer, Observers

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
            disable=not _draws_bars(console),
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

    def planned(self, decisions: Sequence[Decision]) -> None:
        """See Observer."""

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
        if not self._bars.disable:
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
def observer_for(stream: TextIO | None) -> Iterator[Observer]:
    """Give an observer that shows the progress on a stream or in the notebook; nothing for None."""
    if stream is None:
        yield Observers()
        return
    console = Console()
    if not console.is_jupyter:
        console = Console(file=stream, highlight=False, soft_wrap=True)
    with ConsoleObserver(console) as observer:
        yield observer


def _draws_bars(console: Console) -> bool:
    """Return whether bars can be redrawn in place; in a notebook, rich needs ipywidgets for that."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


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
