"""The backbones as parameters of tests: one of each family always, the rest with `pytest -m zoo`."""

from __future__ import annotations

import pytest

from hemaflow.tasks.model.backbones import BACKBONES

SMALL = ("cnn", "mobilenetv2-0.35", "mobilenetv3-small", "efficientnetv2-b0", "resnet50v2", "convnext-tiny")
MEMBERS = [pytest.param(name, marks=() if name in SMALL else pytest.mark.zoo) for name in BACKBONES]
