"""The site: it builds without a warning, loads nothing from elsewhere, and lists all that there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer

import hemaflow
from helpers.commands import ROOT
from hemaflow.flows.cli.main import app
from hemaflow.flows.config.fields import fields
from hemaflow.tasks.model.backbones import BACKBONES

pytestmark = pytest.mark.slow
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""Elements that a browser loads something for → the attribute that says from where."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loads(HTMLParser):
    """Collects what a browser loads with a page.

    Attributes:
        found: The addresses.
    """

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADING.get(tag, ""))
        if address and dict(attrs).get("rel") not in ("canonical", "next", "prev"):
            self.found.append(address)


def loaded(site: Path) -> Iterator[str]:
    """Yield every address that a page or a stylesheet loads from."""
    for page in site.rglob("*.html"):
        yield from Loads(page).found
    for sheet in site.rglob("*.css"):
        yield from re.findall(r"url\(\"?((?:https?:)?//[^)\"]+)", sheet.read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    addresses = set(loaded(site))
    assert len(addresses) > 10
    assert not [address for address in addresses if re.match(r"(?:https?:)?//", address)]


def test_every_command_field_backbone_and_public_name_is_there(site: Path) -> None:
    commands = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    names = list(group.commands)  # type: ignore[attr-defined]
    assert len(names) > 15
    assert [name for name in names if f'<h2 id="hemaflow-{name}">' not in commands] == []
    listed = (site / "reference" / "fields.html").read_text(encoding="utf-8")
    assert [field.path for field in fields() if f"<code>{field.path}</code>" not in listed] == []
    lists = (site / "reference" / "lists.html").read_text(encoding="utf-8")
    assert [name for name in BACKBONES if name not in lists] == []
    api = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert [name for name in hemaflow.__all__ if not re.search(rf'id="hemaflow\.[\w.]+\.{name}"', api)] == []
    assert "<summary>Example</summary>" not in api  # an example is code, not a remark


def test_the_notebook_is_a_page_with_what_its_cells_show(site: Path) -> None:
    page = (site / "notebook.html").read_text(encoding="utf-8")
    assert "completed: demo on sample" in page
    assert '<table border="1" class="dataframe">' in page
