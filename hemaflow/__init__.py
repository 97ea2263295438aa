"""hemaflow trains, judges and packages classifiers of blood cell images.

    import hemaflow

    run = hemaflow.run("cells.zip", recipe="laptop")
    run.metrics.test_tta.accuracy, run.report, run.submission
    run.model.predict(["cell.png"])

Names are loaded when they are first used: `import hemaflow` alone loads neither TensorFlow nor Prefect.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hemaflow.flows.api.functions import (
        backbones,
        compare,
        open_run,
        open_source,
        open_store,
        plan,
        recipes,
        run,
        runs,
    )
    from hemaflow.flows.api.model import Model
    from hemaflow.flows.api.run import Report, Run
    from hemaflow.infra.errors import HemaflowError
    from hemaflow.infra.store.base import Store

__all__ = [
    "HemaflowError",
    "Model",
    "Report",
    "Run",
    "Store",
    "backbones",
    "compare",
    "open_run",
    "open_source",
    "open_store",
    "plan",
    "recipes",
    "run",
    "runs",
]

_ELSEWHERE = {
    "HemaflowError": "hemaflow.infra.errors",
    "Model": "hemaflow.flows.api.model",
    "Report": "hemaflow.flows.api.run",
    "Run": "hemaflow.flows.api.run",
    "Store": "hemaflow.infra.store.base",
}
"""Names that are not functions of the API → the module that defines them."""


def __getattr__(name: str) -> object:
    """Load a name of the API when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("hemaflow")
    if name not in __all__:
        raise AttributeError(f"module 'hemaflow' has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "hemaflow.flows.api.functions")), name)


def __dir__() -> list[str]:
    """List the names of the API."""
    return sorted([*globals(), *__all__, "__version__"])
