"""What carries out the runs and steps of a workflow: this process (`DirectHost`), or a flow of Prefect's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.engine.execute import DirectRunner, execute
from hemaflow.flows.engine.observer import Observer
from hemaflow.flows.engine.run import Run
from hemaflow.flows.runs.record import RunRecord
from hemaflow.infra.settings import Settings

Result = TypeVar("Result")


class Host(Protocol):
    """Carries out a workflow."""

    @property
    def settings(self) -> Settings:
        """Where things are on this machine."""

    def run(self, request: RunRequest) -> RunRecord:
        """Carry out a run of the pipeline and return its record."""

    def step(self, title: str, work: Callable[[], Result], *, uses_accelerator: bool = False) -> Result:
        """Do some work between runs and return what it returns.

        Args:
            title: What it does, for a person: `measure the speed of cnn`.
            work: The work.
            uses_accelerator: Whether it waits for the accelerator slot, where one is set.
        """

    def publish(self, key: str, page: Callable[[], str], description: str) -> None:
        """Show a page of Markdown to whoever watches the workflow, where there is a place for it.

        Args:
            key: Lowercase letters, digits and dashes.
            page: Returns the page.
            description: What the page is.
        """


class DirectHost:
    """Carries out a workflow in this process; no server is needed, and nobody watches but the observer.

    Args:
        observer: Notified of the progress of every run.
        settings: Where things are on this machine.
    """

    def __init__(self, observer: Observer, settings: Settings) -> None:
        self._observer, self._settings = observer, settings

    @property
    def settings(self) -> Settings:
        """See Host."""
        return self._settings

    def run(self, request: RunRequest) -> RunRecord:
        """See Host."""
        with Run(request, self._observer, self._settings) as run:
            return execute(run, DirectRunner())

    def step(self, title: str, work: Callable[[], Result], *, uses_accelerator: bool = False) -> Result:
        """See Host."""
        return work()

    def publish(self, key: str, page: Callable[[], str], description: str) -> None:
        """See Host: the terminal shows what came of it at the end."""
