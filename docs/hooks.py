"""Pages of the documentation that are made: of the command, its fields and lists, and of the notebook.

MkDocs imports this file (`hooks` in mkdocs.yml). The lists come from the code; TensorFlow is not loaded.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from hemaflow.flows.cli.main import app
from hemaflow.flows.config.fields import fields
from hemaflow.flows.config.stages import PipelineConfig

LISTS = ("recipes", "backbones", "layers", "policies", "views")
"""Commands whose output is shown on the page of lists."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the pictures of the notebook."""
    notebook = Path(config.docs_dir) / "notebook.ipynb"
    page, pictures = notebook_page(nbformat.read(notebook, as_version=4))
    made: dict[str, str | bytes] = {
        "reference/cli.md": command_page(),
        "reference/fields.md": fields_page(),
        "reference/lists.md": lists_page(),
        "notebook.md": page,
        **pictures,
    }
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def command_page() -> str:
    """Return the page of the command, made from the commands' own help."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="hemaflow")
    for command in group.commands.values():  # type: ignore[attr-defined]
        command.short_help = (command.help or "").strip().splitlines()[0]  # otherwise cut to 45 characters
    text = get_docs_for_click(obj=group, ctx=context, name="hemaflow", title="The command hemaflow")
    exit_codes = (
        "Results go to stdout, everything else to stderr. The exit code is 0 for success, 1 for a failure, "
        "2 for a mistake in what was asked, 130 after Ctrl-C and 143 after SIGTERM."
    )
    heading, _, rest = text.partition("\n\n")
    return f"{heading}\n\n{exit_codes}\n\n{rest}"


def fields_page() -> str:
    """Return the page of fields: one table for each stage."""
    parts = [
        "# Fields of a config",
        "All that changes the bytes of a result is a field; those that have an effect enter the key of the "
        "stage. `--set stage.field=value` changes one. On a terminal: `hemaflow fields [STAGE]`.",
    ]
    for stage in PipelineConfig.model_fields:
        rows = (
            (f"`{field.path}`", field.type, field.range, f"`{json.dumps(field.default)}`", field.meaning)
            for field in fields(stage)
        )
        parts += [f"## {stage}", _table(("field", "type", "range", "default", "meaning"), rows)]
    return "\n\n".join(parts)


def lists_page() -> str:
    """Return the page of lists: what each listing command prints."""
    parts = ["# Lists", "What the listing commands print. Each list is made from the code that it lists."]
    for name in LISTS:
        with redirect_stdout(io.StringIO()) as printed:
            app([name], standalone_mode=False)
        parts += [f"## hemaflow {name}", f"```text\n{printed.getvalue().rstrip()}\n```"]
    return "\n\n".join(parts)


def notebook_page(notebook: nbformat.NotebookNode) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as a page, and the pictures that the page shows, by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"notebook-{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell shows]({name})")
            elif "text/html" in data:
                parts.append(f'<div class="notebook-output">\n{data["text/html"]}\n</div>')
            elif text := output.get("text") or data.get("text/plain"):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts), pictures


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
