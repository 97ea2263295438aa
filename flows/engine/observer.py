"""Who is told how a run goes. The flow speaks to an observer; the console, a log and the tests are ones."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Protocol

from hemaflow.flows.engine.engine import Decision


class Observer(Protocol):
    """Told of every stage as it begins, goes on and ends; from several threads."""

    def begins(self, decision: Decision) -> None:
        """A stage was decided on; where it runs, it runs now."""

    def waits(self, stage: str) -> None:
        """Another run is making a stage: it is waited for."""

    def progresses(self, stage: str, done: int, total: int, text: str) -> None:
        """A stage got so far: `done` of `total` units, doing `text`."""

    def ends(self, decision: Decision, seconds: float) -> None:
        """A stage is complete."""


class LogObserver:
    """Writes one line per event to a logger, and progress at most every tenth of the way."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
        self._logger = logger
        self._tenths: dict[str, int] = {}

    def begins(self, decision: Decision) -> None:
        """See Observer."""
        if decision.state == "run":
            self._logger.info("%s runs: %s", decision.stage, decision.reason)

    def waits(self, stage: str) -> None:
        """See Observer."""
        self._logger.info("%s waits: another run is making it", stage)

    def progresses(self, stage: str, done: int, total: int, text: str) -> None:
        """See Observer."""
        tenth = 10 * done // max(total, 1)
        if tenth != self._tenths.get(stage):
            self._tenths[stage] = tenth
            self._logger.info("%s %d/%d %s", stage, done, total, text)

    def ends(self, decision: Decision, seconds: float) -> None:
        """See Observer."""
        verb = "reused" if decision.state == "reuse" else "done"
        self._logger.info("%s %s: %s (%.1f s)", decision.stage, verb, decision.reason, seconds)


class Everyone:
    """Tells several observers, one after another.

    Args:
        observers: Who is told.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def begins(self, decision: Decision) -> None:
        """See Observer."""
        for observer in self._observers:
            observer.begins(decision)

    def waits(self, stage: str) -> None:
        """See Observer."""
        for observer in self._observers:
            observer.waits(stage)

    def progresses(self, stage: str, done: int, total: int, text: str) -> None:
        """See Observer."""
        for observer in self._observers:
            observer.progresses(stage, done, total, text)

    def ends(self, decision: Decision, seconds: float) -> None:
        """See Observer."""
        for observer in self._observers:
            observer.ends(decision, seconds)


observing: ContextVar[Observer | None] = ContextVar("observing", default=None)
"""Who watches a flow that is called in this process, beside the run's log and artifacts."""
