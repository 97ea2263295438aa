"""What the fingerprint cannot follow is declared, or is known here with the reason why it is no harm."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from hemaflow.infra.results.code.module import CODE_PACKAGES, CODE_TABLES, Module, read_module
from hemaflow.infra.results.code.names import root_of
from hemaflow.infra.results.code.reach import TRANSPORT, file_of
from hemaflow.infra.results.fingerprint import ROOT

NOT_FOLLOWED = {
    "__import__",
    "eval",
    "exec",
    "globals",
    "import_module",
    "iter_modules",
    "modules",
    "__subclasses__",
    "__init_subclass__",
    "__set_name__",
    "__getattr__",
}
"""Names by which code is reached that no name says."""
KNOWN = {
    "infra/registry.py": "imports the packages that CODE_PACKAGES declares",
    "tasks/core/keras_import.py": "hides optional packages of Keras, imports nothing of ours",
    "tasks/submit/runner.py": "imports the submission's model.py, which is written from CODE_FILES",
}
"""File → why what it does there cannot reach code that the key lacks."""
LOOKED_UP = {
    "tasks/inference/views.py: _kind": "adds a row",
    "tasks/inference/views.py: parse_views": "by the words of evaluate.tta; all names only for a message",
    "tasks/inference/views.py: view": "by the views of predict, which is given their names",
    "tasks/layers/keras_cv_chain.py: _build": "by the name of a layer of augment.layers",
    "tasks/layers/keras_cv_table.py: LAYERS": "a table of both tables",
    "tasks/layers/online.py: OnlineLayer": "by the name of a layer of train.online",
    "tasks/layers/own_layers.py: build": "by the name of a layer of augment.layers",
    "tasks/model/backbones.py: build_backbone": "by train.backbone",
    "tasks/model/backbones.py: check_backbone": "train.backbone; all names only for a message",
    "tasks/model/network.py: assemble": "by train.backbone",
    "tasks/sources/registry.py: _paths": "for a message",
    "tasks/sources/registry.py: open_source": "finds the kind, which is in the key",
    "tasks/sources/registry.py: source_names": "for a message",
    "tasks/train/config.py: TrainConfig": "by train.backbone",
    "tasks/train/loop.py: Fitting": "by train.backbone",
}
"""Use of a table of CODE_TABLES → by which word of the config it looks rows up."""
RUN_AT_IMPORT = {
    "infra.registry.Registry",
    "tasks.core.stage.OnlyWith",
    "tasks.evaluate.metrics.metric",
    "tasks.inference.views._kind",
    "tasks.ingest.parts.OpenedSource",
    "tasks.layers.keras_cv_table._factor",
    "tasks.layers.keras_cv_table._shift",
    "tasks.layers.keras_cv_table._words",
    "tasks.layers.online._span",
    "tasks.layers.own_layers.OWN_LAYERS",
    "tasks.layers.own_layers._own_layer",
    "tasks.layers.own_layers._span",
    "tasks.layers.schema.Factor",
    "tasks.model.backbones.BACKBONES",
    "tasks.model.backbones.Backbone",
    "tasks.model.families.cnn.Cnn",
    "tasks.model.families.efficientnet.EfficientNet",
    "tasks.predict.heavy_mix.medmnist_c",
    "tasks.predict.medmnist_c._corruption",
    "tasks.sources.bloodmnist_releases.Release",
    "tasks.sources.registry.SOURCES",
    "tasks.train.config.FineTuningConfig",
    "tasks.train.config.TransferConfig",
}
"""Functions and classes of ours that are called at an import: none has an effect beyond a table of ours."""


def modules() -> Iterator[Module]:
    """Yield the modules whose code counts."""
    for path in sorted([*(ROOT / "tasks").rglob("*.py"), *(ROOT / "infra").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(("hemaflow", *parts)).removesuffix(".__init__")
        if not any(f"{name}.".startswith(f"{package}.") for package in (*TRANSPORT, "hemaflow.infra.deploy")):
            yield read_module(path.read_text(), name, path.name == "__init__.py")


MODULES = list(modules())
NAMES = [module.name for module in MODULES]


def path_of(module: Module) -> Path:
    path = file_of(module.name, ROOT)
    assert path
    return path


def tree_of(module: Module) -> ast.Module:
    return ast.parse(path_of(module).read_text())


def name_of(module: Module) -> str:
    return path_of(module).relative_to(ROOT).as_posix()


def test_code_that_no_name_leads_to_is_known() -> None:
    found = {
        name_of(module)
        for module in MODULES
        for node in ast.walk(tree_of(module))
        for name in (getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "name", ""))
        if name in NOT_FOLLOWED
    }
    assert sorted(found - KNOWN.keys()) == []


def test_modules_of_ours_are_imported_by_name() -> None:
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.ImportFrom):
                assert node.names[0].name != "*", module.name
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("hemaflow") for alias in node.names), module.name


def test_every_package_of_a_registry_is_declared() -> None:
    registries = 0
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Call) and root_of(node.func) == ("Registry", "") and len(node.args) > 1:
                registries += 1
                assert ast.literal_eval(node.args[1]) in module.declared[CODE_PACKAGES]
    assert registries == 2


def test_rows_of_declared_tables_are_looked_up_by_words_of_the_config() -> None:
    tables = {
        table.rpartition(".")[2] for module in MODULES for table in module.declared.get(CODE_TABLES, ())
    }
    assert len(tables) == 7
    uses = {
        f"{name_of(module)}: {definition}"
        for module in MODULES
        for definition, code in module.definitions.items()
        for used in code.names
        if tables & {*used} and definition not in tables and "register" not in used
    }
    assert sorted(uses - LOOKED_UP.keys()) == []


def test_what_runs_at_an_import_is_known() -> None:
    found = set()
    for module in MODULES:
        for statement in module.statements:
            for name, _ in (*statement.calls, *(adding for adding, _ in statement.rows)):
                owner, own = module.bindings.get(name, ("", ""))
                if name in module.definitions:
                    found.add(f"{module.name.removeprefix('hemaflow.')}.{name}")
                elif owner.startswith("hemaflow."):
                    found.add(f"{owner.removeprefix('hemaflow.')}.{own}")
    assert sorted(found - RUN_AT_IMPORT) == []


def test_transport_is_there() -> None:
    assert all(file_of(package, ROOT) for package in TRANSPORT)
