"""A run as a Python object: its metrics, history, predictions, report, submission and model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hemaflow.flows.api.model import Model
from hemaflow.flows.engine.report import report_of
from hemaflow.flows.runs.find import trained_model
from hemaflow.flows.runs.record import RunRecord, output_path, result_of
from hemaflow.infra.errors import UserError
from hemaflow.infra.settings import current_settings
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.facts import IngestFacts, Split
from hemaflow.tasks.core.run_metrics import RunMetrics

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Report:
    """The report of a run: one HTML page.

    Attributes:
        path: A local, read-only file.

    Example:
        >>> import hemaflow
        >>> hemaflow.open_run().report.path.name
        'report.html'
    """

    path: Path

    def __repr__(self) -> str:
        """Return the path for a terminal."""
        return f"Report(path={self.path})"

    def __fspath__(self) -> str:
        """Return the path, for `open` and the like."""
        return str(self.path)

    def _repr_html_(self) -> str:
        """Show the page in a notebook, in a frame of its own."""
        from html import escape

        page = escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="600" style="border:0"></iframe>'


class Run:
    """One run of the pipeline in a store.

    Args:
        record: What the store recorded of the run.
        store: The store.

    Example:
        >>> import hemaflow
        >>> run = hemaflow.open_run()
        >>> run.status, run.record.recipe, run.record.data
        ('completed', 'demo', 'sample')
    """

    def __init__(self, record: RunRecord, store: Store) -> None:
        self.record, self.store = record, store

    @property
    def id(self) -> str:
        """The id of the run; it sorts by time.

        Example:
            >>> import hemaflow
            >>> hemaflow.open_run(hemaflow.open_run().id).status
            'completed'
        """
        return self.record.run

    @property
    def status(self) -> str:
        """`running`, `completed`, `failed` or `interrupted`.

        Example:
            >>> import hemaflow
            >>> hemaflow.open_run().status
            'completed'
        """
        return self.record.status

    @cached_property
    def metrics(self) -> RunMetrics:
        """The metrics; an entry that was not measured is None.

        Example:
            >>> import hemaflow
            >>> metrics = hemaflow.open_run().metrics
            >>> 0.0 <= metrics.test_tta.accuracy <= 1.0
            True
            >>> metrics.test_heavy_mix is None
            True
        """
        return self.record.measured

    @cached_property
    def history(self) -> pandas.DataFrame:
        """The training history, one row per epoch: loss, accuracy, val_loss, val_accuracy and more.

        Example:
            >>> import hemaflow
            >>> list(hemaflow.open_run().history["epoch"])
            [1]
        """
        import pandas

        rows = json.loads(result_of(self.store, self.record, "train").read(self.store, "history.json"))
        return pandas.DataFrame(rows)

    def predictions(self, split: Split = "test") -> pandas.DataFrame:
        """Return the predictions for a split, one row per image.

        Args:
            split: `val` or `test`.

        Returns:
            Columns id, label (true class), predicted (class, averaged over the views), and p_<class>: the
            averaged probability in 0..1 of each class.

        Raises:
            UserError: Nothing was predicted for that split.

        Example:
            >>> import hemaflow
            >>> table = hemaflow.open_run().predictions("test")
            >>> len(table), list(table.columns[:4])
            (72, ['id', 'label', 'predicted', 'p_basophil'])
        """
        import pandas

        from hemaflow.tasks.records.predictions import read_predictions

        if split not in ("val", "test"):
            raise UserError(
                f"There are no predictions for {split!r}.",
                expected="val or test",
                remedy="Ask for one of these: the model has seen the training images.",
            )
        classes = IngestFacts.of(result_of(self.store, self.record, "ingest")).classes
        data = result_of(self.store, self.record, "evaluate").read(self.store, f"predictions-{split}.csv")
        found = read_predictions(data, len(classes), tta=True)
        table = pandas.DataFrame(
            {
                "id": found.ids,
                "label": [classes[label] for label in found.labels],
                "predicted": [classes[label] for label in found.predicted],
            }
        )
        for number, name in enumerate(classes):
            table[f"p_{name}"] = found.probabilities[:, number]
        return table

    @property
    def report(self) -> Report:
        """The report, made again if its code changed. Raises UserError if the run did not get that far.

        Example:
            >>> import hemaflow
            >>> hemaflow.open_run().report.path.read_text()[:15]
            '<!doctype html>'
        """
        return Report(report_of(self.store, self.record, current_settings()))

    @property
    def submission(self) -> Path:
        """The submission zip, a local, read-only file. Raises UserError if the run did not get that far.

        Example:
            >>> import hemaflow, zipfile
            >>> zipfile.is_zipfile(hemaflow.open_run().submission)
            True
        """
        return self._output("submission", "submit")

    @cached_property
    def model(self) -> Model:
        """The trained model. Raises UserError if the run did not get that far.

        Example:
            >>> import hemaflow
            >>> len(hemaflow.open_run().model.classes)
            8
        """
        return Model(trained_model(self.store, self.id))

    def _output(self, name: str, stage: str) -> Path:
        path = output_path(self.store, self.record, name)
        if path is None:
            raise UserError(
                f"Run {self.id} has no {name}.",
                received=f"a run that is {self.status}",
                where=self.store.url,
                remedy=f"Complete its {stage} stage: hemaflow run --of {self.id} --until {stage}",
            )
        return path

    def __repr__(self) -> str:
        """Return one line for a terminal."""
        accuracy = self.metrics.test_tta or self.metrics.test or self.metrics.val or None
        scored = f", accuracy {accuracy.accuracy:.4f}" if accuracy and accuracy.accuracy is not None else ""
        return f"<Run {self.id} {self.status}: {self.record.recipe} on {self.record.data}{scored}>"
