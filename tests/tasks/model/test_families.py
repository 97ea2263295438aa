"""Backbones register where they are written, and every list is made of what is registered."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

from hemaflow.infra.errors import ConfigError
from hemaflow.infra.results.fingerprint import code_fingerprint
from hemaflow.tasks.model import families
from hemaflow.tasks.model.backbones import BACKBONES, Backbone, build_backbone, check_backbone
from hemaflow.tasks.train.config import TrainConfig

MODULES = [module.name for module in pkgutil.iter_modules(families.__path__)]
TINY = Backbone("Tiny", "none", 64, 1, "last", "arXiv:0000.00000", min_pixels=48)


@pytest.fixture
def with_one_more() -> Iterator[None]:
    assert "cnn" in BACKBONES  # all others are registered first
    BACKBONES.register("tiny")(TINY)
    yield
    del BACKBONES._entries["tiny"]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_of_the_families_registers_backbones(module: str) -> None:
    named = importlib.import_module(f"{families.__name__}.{module}").__doc__
    assert named
    start = module.replace("_", "")
    assert any(name.replace("-", "").startswith(start) for name in BACKBONES)


def test_the_code_of_every_family_is_part_of_the_code_of_train() -> None:
    files = code_fingerprint("hemaflow.tasks.train.stage").keys()
    assert {f"tasks/model/families/{module}.py" for module in MODULES} <= files


@pytest.mark.usefixtures("with_one_more")
def test_a_registered_backbone_is_a_choice_wherever_backbones_are_named() -> None:
    assert TrainConfig(backbone="tiny").backbone == "tiny"
    with pytest.raises(ValueError, match=r"Did you mean 'tiny'\? One of: .*resnet50v2, tiny"):
        check_backbone("tinny")
    with pytest.raises(ValueError, match="images of at least 48 pixels"):
        TrainConfig(backbone="tiny", input_size_pixels=32)
    with pytest.raises(ConfigError, match="at least 48 pixels"):
        build_backbone("tiny", 32, None)


def test_a_backbone_that_nobody_registered_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'resnet50'"):
        build_backbone("resnet5", 32, None)


def test_two_backbones_of_one_name_are_a_mistake() -> None:
    assert "cnn" in BACKBONES
    with pytest.raises(ValueError, match="two entries called 'cnn'"):
        BACKBONES.register("cnn")(TINY)
