"""The notebook of the documentation runs from its first cell to its last, as a reader would run it.

`HEMAFLOW_NOTEBOOK=docs/notebook.ipynb pytest -n 0 tests/docs/test_notebook.py` keeps what its cells show now.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from helpers.commands import ROOT

pytestmark = pytest.mark.slow
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
MAX_BYTES = 60_000


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The notebook, run in a folder of its own by a user who has set up nothing."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patched:
        for name in os.environ:
            if name.startswith(("PREFECT_", "HEMAFLOW_")) and name != "HEMAFLOW_NOTEBOOK":
                patched.delenv(name)
        patched.setenv("PREFECT_HOME", str(folder / "prefect"))
        patched.setenv("PYTHONPATH", str(ROOT))
        client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}})
        client.execute()
    if kept := os.environ.get("HEMAFLOW_NOTEBOOK"):
        nbformat.write(to_keep(notebook, folder), ROOT / kept)
    return notebook


def to_keep(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Return the notebook with what is kept in git: progress as text, the report by its name, no paths."""
    notebook = nbformat.from_dict(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        outputs: list[NotebookNode] = []
        lines = [text(output) for output in cell.outputs if output.output_type == "display_data"]
        if lines:
            outputs.append(nbformat.v4.new_output("stream", name="stdout", text="".join(lines)))
        for output in cell.outputs:
            if output.output_type == "display_data" or output.get("name") == "stderr":
                continue
            if "<iframe" in output.get("data", {}).get("text/html", ""):
                del output.data["text/html"]
            for kind, shown in output.get("data", {}).items():
                output.data[kind] = shown.replace(f"{folder}/", "")
            outputs.append(output)
        cell.outputs = outputs
    return notebook


def text(output: NotebookNode) -> str:
    """What a cell shows, as text."""
    return ESCAPES.sub("", output.get("text") or output.data["text/plain"])


def shown(notebook: NotebookNode, code: str) -> str:
    """What the cell with that code shows last, as text."""
    [cell] = [cell for cell in notebook.cells if cell.cell_type == "code" and code in cell.source]
    return text(cell.outputs[-1])


def test_every_cell_shows_what_the_text_promises(executed: NotebookNode) -> None:
    accuracy = float(shown(executed, "metrics.test_tta").strip("(").split(",")[0])
    assert accuracy > 0.9  # Drawn cells are easy to tell apart.
    assert "completed" in shown(executed, "hemaflow.run(")
    assert shown(executed, "run.submission") == "('submission.zip', True)"
    true, predicted = ast.literal_eval(shown(executed, "model.predict("))
    assert true == predicted
    states = [line.split()[:2] for line in shown(executed, "hemaflow.plan(").splitlines()]
    assert states == [
        ["ingest", "reuse"],
        ["augment", "reuse"],
        ["train", "reuse"],
        ["predict", "run"],
        ["evaluate", "run"],
        ["submit", "run"],
    ]


def test_it_shows_the_progress_and_the_report(executed: NotebookNode) -> None:
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    progress = "".join(text(output) for output in cells[0].outputs if output.output_type == "display_data")
    assert "train     done in" in progress
    [report] = [cell for cell in cells if cell.source == "run.report"]
    assert "<iframe srcdoc=" in report.outputs[-1].data["text/html"]


def test_what_is_kept_in_git_is_small_and_has_been_run() -> None:
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert "/tmp/" not in NOTEBOOK.read_text()  # noqa: S108
