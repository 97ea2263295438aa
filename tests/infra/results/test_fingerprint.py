from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from hemaflow.infra.errors import ConfigError, StageError
from hemaflow.infra.results.fingerprint import ROOT, code_fingerprint, library_versions, words

FILES = {
    "tasks/__init__.py": "",
    "tasks/train.py": '''
"""Train."""
from __future__ import annotations
from typing import TYPE_CHECKING
import numpy as np
from hemaflow.infra import store
from hemaflow.infra.errors import Broken
from hemaflow.tasks import tables
from hemaflow.tasks.other import unused as rest, used
if TYPE_CHECKING:
    from hemaflow.tasks import sketch
CODE_FILES = ("page.html",)
LIMIT = 3
SPARE = 4

def run(config: TrainConfig) -> int:
    """Run."""
    from hemaflow.tasks.helper import double  # late
    if used(LIMIT) > np.pi:
        raise Broken
    return double(store.load(2)) + tables.NETS[config.net] + tables.LAYERS[config.layer]

class BaseConfig:
    pass

class TrainConfig(BaseConfig):
    net: str = "small"
    """A network."""
    layer: str = "flip"

    def unusual(self) -> int:
        return 5

def _unused() -> int:
    return SPARE
''',
    "tasks/helper.py": "def double(n):\n    return 2 * n\n",
    "tasks/other.py": "def used(n):\n    return n\n\ndef unused(n):\n    return n\n",
    "tasks/sketch.py": "x = 1\n",
    "tasks/page.html": "<p>",
    "tasks/never.py": "y = 2\n",
    "tasks/tables.py": """
from hemaflow.infra.registry import Registry
NETS = Registry("net", "hemaflow.tasks.nets")
CODE_PACKAGES = ("hemaflow.tasks.nets",)
LAYERS = {"flip": lambda: 1, "turn": lambda: 2}
CODE_TABLES = ("NETS", "LAYERS")
METRICS = {}

def metric(function):
    METRICS[function.__name__] = function
    return function

@metric
def accuracy():
    return 1

def score():
    return METRICS
""",
    "tasks/nets/__init__.py": "",
    "tasks/nets/small.py": "from hemaflow.tasks.tables import NETS\nNETS.register('small')(7)\n",
    "tasks/nets/large.py": "from hemaflow.tasks.tables import NETS\n"
    "for size, units in (('large', 8), ('huge', 9)):\n    NETS.register(f'{size}-net')(units)\n",
    "infra/__init__.py": "",
    "infra/errors.py": "class Broken(Exception):\n    pass\n",
    "infra/registry.py": "class Registry:\n    pass\n",
    "infra/store.py": "def load(n):\n    return n\n",
}
NAMES = {"small", "flip"}
"""Words of the config of a run."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def changed(root: Path, name: str, old: str, new: str, names: Collection[str] | None = NAMES) -> set[str]:
    """Edit a file; return what of the fingerprint changed, as `file: definition`."""
    before = code_fingerprint("hemaflow.tasks.train", names, root)
    edit(root, name, old, new)
    after = code_fingerprint("hemaflow.tasks.train", names, root)
    return {
        f"{file}: {definition}"
        for file in before.keys() | after.keys()
        for definition in before.get(file, {}).keys() | after.get(file, {}).keys()
        if before.get(file, {}).get(definition) != after.get(file, {}).get(definition)
    }


def test_what_the_entry_points_name_counts_and_nothing_else(root: Path) -> None:
    found = code_fingerprint("hemaflow.tasks.train", NAMES, root)
    assert {file: sorted(definitions) for file, definitions in found.items()} == {
        "infra/registry.py": ["Registry"],
        "tasks/helper.py": ["double"],
        "tasks/nets/small.py": ["NETS[small]"],
        "tasks/other.py": ["used"],
        "tasks/page.html": ["file"],
        "tasks/tables.py": ["LAYERS", "LAYERS[flip]", "NETS", "imports"],
        "tasks/train.py": ["BaseConfig", "LIMIT", "TrainConfig", "imports", "run"],
    }


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tasks/train.py", "# late", "# a comment that says more"),
        ("tasks/train.py", '"""Train."""', '"""Train a model."""'),
        ("tasks/train.py", '"""Run."""\n', '"""Run it.\n\n    At length.\n    """\n'),
        ("tasks/train.py", '"""A network."""', '"""The network."""'),
        ("tasks/train.py", "used(LIMIT) > np.pi", "used(\n        LIMIT\n    ) > np.pi"),
        ("tasks/train.py", "SPARE = 4", "SPARE = 5"),
        ("tasks/train.py", "return SPARE", "return 2 * SPARE"),
        ("tasks/other.py", "def unused(n):\n    return n", "def unused(n):\n    return -n"),
        ("tasks/sketch.py", "x = 1", "x = 2"),
        ("tasks/never.py", "y = 2", "y = 3"),
        ("infra/errors.py", "class Broken", "class Other(Exception):\n    pass\nclass Broken"),
        ("infra/store.py", "return n", "return int(n)"),
        ("tasks/nets/large.py", "8", "88"),
        ("tasks/nets/large.py", "('huge', 9)", "('huge', 9), ('vast', 10)"),
        ("tasks/tables.py", '"turn": lambda: 2', '"turn": lambda: 3, "shear": lambda: 4'),
        ("tasks/tables.py", "return 1", "return 2"),
        ("tasks/tables.py", "return METRICS", "return sorted(METRICS)"),
    ],
)
def test_what_is_not_used_does_not_count(root: Path, file: str, old: str, new: str) -> None:
    assert changed(root, file, old, new) == set()


@pytest.mark.parametrize(
    ("file", "old", "new", "definition"),
    [
        ("tasks/train.py", "double(store", "double(3 + store", "run"),
        ("tasks/train.py", 'net: str = "small"', 'net: str = "other"', "TrainConfig"),
        ("tasks/train.py", "return 5", "return 6", "TrainConfig"),
        ("tasks/train.py", "LIMIT = 3", "LIMIT = 4", "LIMIT"),
        ("tasks/train.py", "LIMIT = 3\n", "LIMIT = 3\nLIMIT += 1\n", "LIMIT"),
        ("tasks/train.py", "numpy as np", "math as np", "imports"),
        ("tasks/train.py", "unused as rest, used", "unused as used, used as rest", "imports"),
        ("tasks/train.py", "SPARE = 4", "print(4)", "module level"),
        ("tasks/other.py", "def unused", "used(3)\n\ndef unused", "module level"),
        ("tasks/train.py", "SPARE = 4", "import readers_of_plugins", "module level"),
        ("tasks/train.py", "SPARE = 4", "SPARE = plugins()", "SPARE"),
        ("tasks/train.py", "SPARE = 4", "TrainConfig.unusual = print", "module level"),
        ("tasks/helper.py", "2 * n", "n + n", "double"),
        ("tasks/page.html", "<p>", "<b>", "file"),
        ("tasks/nets/small.py", "7", "8", "NETS[small]"),
        ("tasks/tables.py", '"flip": lambda: 1', '"flip": lambda: 2', "LAYERS[flip]"),
        ("tasks/tables.py", "METRICS = {}", "LAYERS['flip'] = 5", "module level"),
        ("tasks/never.py", "", "", ""),
    ],
)
def test_what_is_used_counts_and_is_named(root: Path, file: str, old: str, new: str, definition: str) -> None:
    found = changed(root, file, old, new)
    assert (f"{file}: {definition}" in found) == bool(definition)


def test_the_rows_of_a_table_that_is_read_whole_count_all(root: Path) -> None:
    edit(root, "tasks/train.py", "tables.LAYERS[config.layer]", "tables.score()")
    assert changed(root, "tasks/tables.py", "return 1", "return 2") == {"tasks/tables.py: accuracy"}


@pytest.mark.parametrize(
    ("names", "counted"),
    [
        ({"small"}, ["small"]),
        ({"large-net"}, ["large-net"]),
        ({"huge-net-3"}, ["huge-net"]),
        (None, ["huge-net", "large-net", "small"]),
    ],
)
def test_a_row_counts_where_it_is_named(root: Path, names: set[str] | None, counted: list[str]) -> None:
    """A name may go on after a dash: `shift-x+3` is a shift by three pixels."""
    found = code_fingerprint("hemaflow.tasks.train", names, root)
    rows = {row for file in found if file.startswith("tasks/nets") for row in found[file] if "[" in row}
    assert sorted(rows) == [f"NETS[{name}]" for name in counted]


def test_a_row_with_a_second_decorator_counts_where_that_does(root: Path) -> None:
    """Its name is that of the table's call, and what the other call changes counts too."""
    (root / "tasks/nets/tiny.py").write_text(
        "from hemaflow.tasks.tables import METRICS, NETS\n"
        "@note('small')\n@NETS.register('tiny')\ndef tiny():\n    return 3\n"
        "def note(name):\n    return METRICS.setdefault\n"
    )
    assert "tasks/nets/tiny.py" not in code_fingerprint("hemaflow.tasks.train", NAMES, root)
    assert "tiny" in code_fingerprint("hemaflow.tasks.train", {"tiny"}, root)["tasks/nets/tiny.py"]
    edit(root, "tasks/train.py", "tables.LAYERS[config.layer]", "tables.score()")
    assert "tiny" in code_fingerprint("hemaflow.tasks.train", NAMES, root)["tasks/nets/tiny.py"]


def test_a_row_that_the_code_names_counts(root: Path) -> None:
    edit(root, "tasks/train.py", "config.net]", "'huge-net']")
    assert "NETS[huge-net]" in code_fingerprint("hemaflow.tasks.train", NAMES, root)["tasks/nets/large.py"]


def test_words_of_a_config() -> None:
    config = {"net": "small", "layers": [{"name": "flip"}], "views": "a, b-2", "size": 3, "none": None}
    assert words(config) == {"small", "flip", "a", "b-2"}


def test_a_module_that_is_passed_on_counts_whole(root: Path) -> None:
    edit(root, "tasks/train.py", "used(LIMIT)", "used(tables)")
    assert changed(root, "tasks/tables.py", "return 1", "return 2") == {"tasks/tables.py: accuracy"}


def test_a_module_that_only_a_string_names_counts(root: Path) -> None:
    edit(root, "tasks/train.py", "used(LIMIT)", "used('hemaflow.tasks.never')")
    assert changed(root, "tasks/never.py", "y = 2", "y = 3") == {"tasks/never.py: y"}


def test_the_fingerprint_is_the_same_under_every_python(tmp_path: Path) -> None:
    """These were taken under 3.11, 3.12 and 3.13, which unparse f-strings and dump trees differently."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "say.py").write_text(
        "async def _say(names, *, width=3, **more):\n"
        "    return f\"{', '.join(f'{name!r:>{width}}' for name in names)}: {more['what']}\"\n"
        "class Empty: ...\n"
        "VALUES = (None, 1.5, b'x', ..., [], {}, lambda: 0)\n"
    )
    assert code_fingerprint("hemaflow.tasks.say", root=tmp_path)["tasks/say.py"] == {
        "_say": "ebc1afb1565bbe1949462174a9e264728db42953ecedb9b83e8bfe9eb78438e7",
        "Empty": "e2fd4b9b8a347b8e95a05dc57f1ebdb944f8ec1a5c5224d65814d1ee8182a005",
        "VALUES": "b491cd807015404e75e81f235e42ad038a50e226322052db26b3979adb41dab4",
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
    found = changed(root, "tasks/helper.py", "return", "# twice\n    return")
    assert found == {"tasks/helper.py: file"}


def test_a_declared_file_that_is_missing_is_an_error(root: Path) -> None:
    (root / "tasks/page.html").unlink()
    with pytest.raises(StageError, match=r"page.html"):
        code_fingerprint("hemaflow.tasks.train", root=root)


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
