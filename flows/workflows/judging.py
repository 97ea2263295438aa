"""Judges a challenger: the drift of its new pictures, and the verdict; two extra results (`obtain`).

The challenger's record names both among its needs, and holds the verdict.
"""

from __future__ import annotations

from typing import NamedTuple

from hemaflow.flows.engine.extra_results import ExtraResult, obtain
from hemaflow.flows.engine.worker_process import StageWorker
from hemaflow.flows.runs.record import RunRecord, result_of
from hemaflow.infra.results.draft import Progress, silent
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.stage import StageConfig
from hemaflow.tasks.review import drift
from hemaflow.tasks.review import judge as verdict
from hemaflow.tasks.review.drift import DriftConfig
from hemaflow.tasks.review.judge import JudgeConfig

LIBRARIES = ("tensorflow", "keras", "numpy", "scipy", "pillow")
"""Distributions whose version is part of both keys."""
NEVER_MADE = "never done with this pair, rule and code"
"""Why a result is made that the store has nothing of."""
OF_CHAMPION = "champion_"
"""How the names of those parents begin that are the champion's."""


class Judgement(NamedTuple):
    """What came of judging a challenger."""

    verdict: Manifest
    """Facts `promote`, `reason` and the numbers behind them; `verdict.json`."""
    drift: Manifest
    """Facts `num_new_images`, `drifted`; `drift.json`."""


def judge(
    store: Store,
    challenger: RunRecord,
    champion: RunRecord,
    settings: Settings,
    judge_config: JudgeConfig | None = None,
    drift_config: DriftConfig | None = None,
    progress: Progress = silent,
) -> Judgement:
    """Compare a challenger with the champion on the challenger's test split, and their pictures.

    Args:
        store: Where the results of both are.
        challenger: The record of the new run; it is saved with what it needs, how it went, and the verdict.
        champion: The record of the run whose model is in production.
        settings: How long a worker may take.
        judge_config: The rule of promotion; the defaults where None.
        drift_config: What is called drift; the defaults where None.
        progress: Told how far it is.

    Raises:
        UserError: One of the two has no result of a stage that must be read.
        StageError: A worker could not do its work.
    """
    wanted: dict[str, tuple[tuple[str, ...], StageConfig]] = {
        "drift": (drift.PARENTS, drift_config or DriftConfig()),
        "judge": (verdict.PARENTS, judge_config or JudgeConfig()),
    }
    extras = [
        ExtraResult(
            name,
            f"hemaflow.tasks.review.{name}",
            config,
            _parents(store, names, challenger, champion),
            LIBRARIES,
            NEVER_MADE,
        )
        for name, (names, config) in wanted.items()
    ]
    with StageWorker() as worker:
        made = {
            extra.name: obtain(extra, store, [challenger], worker, settings, progress) for extra in extras
        }
    challenger.verdict = {
        **made["judge"].facts,
        "champion": champion.run,
        "drift": made["drift"].facts,
    }
    challenger.save(store)
    return Judgement(made["judge"], made["drift"])


def _parents(
    store: Store, names: tuple[str, ...], challenger: RunRecord, champion: RunRecord
) -> dict[str, Manifest]:
    """Return the results of both runs by the names that the tasks read them under."""
    return {
        name: result_of(
            store,
            champion if name.startswith(OF_CHAMPION) else challenger,
            name.removeprefix(OF_CHAMPION),
        )
        for name in names
    }
