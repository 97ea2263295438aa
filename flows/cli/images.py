"""The commands about the images of a run: index, findings."""

from __future__ import annotations

from hemaflow.flows.cli.options import RunId, StoreUrl, opened
from hemaflow.flows.runs.find import find_run
from hemaflow.flows.runs.record import result_of
from hemaflow.tasks.ingest.findings import read_findings
from hemaflow.tasks.records.index import Index, write_index
from hemaflow.tasks.records.table import write_table


def index(run_id: RunId = "", store: StoreUrl = "") -> None:
    """Print the index of a run's images as CSV: id, SHA-256 of the pixels, label, split, source."""
    found = opened(store)
    rows = Index.of(found, result_of(found, find_run(found, run_id), "ingest")).rows()
    print(write_index(rows).decode(), end="")


def findings(run_id: RunId = "", store: StoreUrl = "") -> None:
    """Print what ingest dropped, grouped or found unusual, as CSV: kind, item, action, reason."""
    found = opened(store)
    listed = read_findings(found, result_of(found, find_run(found, run_id), "ingest"))
    rows = [(one.kind, item, one.action, one.reason) for one in listed for item in one.items]
    print(write_table([("kind", "item", "action", "reason"), *rows]).decode(), end="")
