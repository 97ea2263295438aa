"""Observers are notified of the progress of a run: the console, a log, Prefect's artifacts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple, Protocol

from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.engine.engine import Decision, Engine


class Observer(Protocol):
    """Notified when a run is planned, and as each stage begins, goes on and ends; from several threads."""

    def planned(self, decisions: Sequence[Decision]) -> None:
        """The run was planned."""

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

    def planned(self, decisions: Sequence[Decision]) -> None:
        """See Observer."""

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


class Observers:
    """Notifies several observers, one after another."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def planned(self, decisions: Sequence[Decision]) -> None:
        """See Observer."""
        for observer in self._observers:
            observer.planned(decisions)

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


class WatchedRun(NamedTuple):
    """A run whose flow is called in this process.

    Attributes:
        observer: Is notified beside the run's log and artifacts.
        request: The request that the engine was made for; None where there is none.
        engine: The engine, which has the source's digest already.
    """

    observer: Observer
    request: RunRequest | None = None
    engine: Engine | None = None


watched_run: ContextVar[WatchedRun | None] = ContextVar("watched_run", default=None)
"""The observer of a flow that is called in this process."""
