from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hemaflow.infra.errors import ConfigError, StageError
from hemaflow.infra.results.fingerprint import ROOT, code_fingerprint, library_versions

FILES = {
    "tasks/__init__.py": "",
    "tasks/train.py": '''
"""Train."""
from __future__ import annotations
from typing import TYPE_CHECKING
from hemaflow.infra import store
if TYPE_CHECKING:
    from hemaflow.tasks import sketch
CODE_FILES = ("page.html",)

def run() -> int:
    """Run."""
    from hemaflow.tasks.helper import double  # late
    return double(2)

class Config:
    epochs: int = 3
    """Passes."""
''',
    "tasks/helper.py": "def double(n):\n    return 2 * n\n",
    "tasks/sketch.py": "x = 1\n",
    "tasks/page.html": "<p>",
    "tasks/unused.py": "y = 2\n",
    "infra/__init__.py": "",
    "infra/store.py": "import json\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def test_the_closure_holds_what_can_be_reached(root: Path) -> None:
    assert list(code_fingerprint("hemaflow.tasks.train", root)) == [
        "infra/__init__.py",
        "infra/store.py",
        "tasks/__init__.py",
        "tasks/helper.py",
        "tasks/page.html",
        "tasks/train.py",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tasks/train.py", "# late", "# a comment that says more"),
        ("tasks/train.py", '"""Train."""', '"""Train a model."""'),
        ("tasks/train.py", '"""Run."""\n', '"""Run it.\n\n    At length.\n    """\n'),
        ("tasks/train.py", '"""Passes."""', '"""Passes over the data."""'),
        ("tasks/train.py", "return double(2)", "return double(\n        2\n    )"),
        ("tasks/sketch.py", "x = 1", "x = 2"),
        ("tasks/unused.py", "y = 2", "y = 3"),
    ],
)
def test_what_does_not_run_does_not_count(root: Path, file: str, old: str, new: str) -> None:
    before = code_fingerprint("hemaflow.tasks.train", root)
    edit(root, file, old, new)
    assert code_fingerprint("hemaflow.tasks.train", root) == before


@pytest.mark.parametrize(
    ("file", "old", "new", "definition"),
    [
        ("tasks/train.py", "double(2)", "double(3)", "run"),
        ("tasks/train.py", "epochs: int = 3", "epochs: int = 4", "Config"),
        ("tasks/train.py", '"page.html"', '"../tasks/helper.py"', "module level"),
        ("tasks/helper.py", "2 * n", "n + n", "double"),
        ("tasks/page.html", "<p>", "<b>", "file"),
        ("infra/store.py", "import json", "import csv", "module level"),
    ],
)
def test_what_runs_counts_and_is_named(root: Path, file: str, old: str, new: str, definition: str) -> None:
    before = code_fingerprint("hemaflow.tasks.train", root)
    edit(root, file, old, new)
    after = code_fingerprint("hemaflow.tasks.train", root)
    assert {name for name in before if before[name] != after.get(name)} >= {file}
    assert before[file][definition] != after[file].get(definition)


def test_the_fingerprint_is_the_same_under_every_python(tmp_path: Path) -> None:
    """These were taken under 3.11, 3.12 and 3.13, which unparse f-strings and dump trees differently."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "say.py").write_text(
        "async def say(names, *, width=3, **more):\n"
        "    return f\"{', '.join(f'{name!r:>{width}}' for name in names)}: {more['what']}\"\n"
        "class Empty: ...\n"
        "VALUES = (None, 1.5, b'x', ..., [], {}, lambda: 0)\n"
    )
    assert code_fingerprint("hemaflow.tasks.say", tmp_path)["tasks/say.py"] == {
        "say": "004048387dea3be390366b3cccccdc25016d83d81e084e2acea4d5e6a1404294",
        "Empty": "e2fd4b9b8a347b8e95a05dc57f1ebdb944f8ec1a5c5224d65814d1ee8182a005",
        "module level": "b491cd807015404e75e81f235e42ad038a50e226322052db26b3979adb41dab4",
    }


@pytest.mark.slow
def test_versions_are_read_without_an_import() -> None:
    code = (
        "import sys; from hemaflow.infra.results.fingerprint import library_versions; "
        "print(library_versions(['keras-cv', 'tensorflow'])['keras-cv']); "
        "sys.exit('keras_cv' in sys.modules or 'tensorflow' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "0.9.0"


def test_a_module_whose_text_is_used_counts_with_its_comments(root: Path) -> None:
    """Such as the text that a submission is written from."""
    edit(root, "tasks/train.py", '("page.html",)', '("page.html", "helper.py")')
    before = code_fingerprint("hemaflow.tasks.train", root)
    assert set(before["tasks/helper.py"]) == {"double", "file"}
    edit(root, "tasks/helper.py", "return", "# twice\n    return")
    changed = {
        name: definition
        for name, definitions in code_fingerprint("hemaflow.tasks.train", root).items()
        for definition in definitions
        if definitions[definition] != before[name].get(definition)
    }
    assert changed == {"tasks/helper.py": "file"}


def test_the_modules_of_a_declared_package_count(root: Path) -> None:
    edit(root, "tasks/train.py", "CODE_FILES", 'CODE_PACKAGES = ("hemaflow.tasks",)\nCODE_FILES')
    assert {"tasks/unused.py", "tasks/sketch.py"} <= code_fingerprint("hemaflow.tasks.train", root).keys()


def test_a_declared_file_that_is_missing_is_an_error(root: Path) -> None:
    (root / "tasks/page.html").unlink()
    with pytest.raises(StageError, match=r"page.html"):
        code_fingerprint("hemaflow.tasks.train", root)


def test_every_file_that_is_not_python_is_declared_by_the_code_that_reads_it() -> None:
    declared = {
        name
        for module in (
            "hemaflow.tasks.evaluate.stage",
            "hemaflow.tasks.submit.stage",
            "hemaflow.tasks.review.label_errors",
        )
        for name, definitions in code_fingerprint(module).items()
        if "file" in definitions
    }
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tasks").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert files
    assert declared == {
        *files,
        "tasks/submit/model_template.py",
        "tasks/inference/views.py",
        "tasks/inference/temperature.py",
    }


def test_the_backend_of_keras_is_a_library_of_what_computes_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert library_versions(["keras"]).keys() == {"keras", "tensorflow"}
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    assert library_versions(["keras"]).keys() == {"keras", "jax"}
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert library_versions(["keras"]).keys() == {"keras", "tensorflow"}
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert library_versions(["numpy"]).keys() == {"numpy"}
    assert library_versions(["keras", "keras-cv"]).keys() == {"keras", "keras-cv"}
    monkeypatch.setenv("KERAS_BACKEND", "jay")
    with pytest.raises(ConfigError, match="cannot compute with the backend"):
        library_versions(["keras"])
