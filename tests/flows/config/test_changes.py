from __future__ import annotations

import pytest

from hemaflow.flows.config.changes import change
from hemaflow.flows.config.policies import POLICIES
from hemaflow.flows.config.recipes import recipe_named
from hemaflow.flows.config.stages import PipelineConfig
from hemaflow.infra.errors import ConfigError


def test_changes_are_json_or_text() -> None:
    changed = change(
        PipelineConfig(),
        ["train.batch_size=32", "evaluate.tta=none", "train.fine_tuning.train_batch_norm=false"],
    )
    assert changed.train.batch_size == 32
    assert changed.evaluate.tta == "none"
    assert changed.train.fine_tuning.train_batch_norm is False
    assert PipelineConfig() == change(PipelineConfig(), [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("augment.copies", "cannot be read"),
        ("copies=3", "cannot be read"),
        ("augmen.copies=3", "Did you mean 'augment'"),
        ("augment.copeis=3", "Did you mean 'copies'"),
        ("augment.copies.more=3", "is a value, not a group"),
        ("augment.copies=many", "valid integer"),
        ("augment.copies=-1", "augment.copies=-1"),
        ("evaluate.tta=fliqs", "Did you mean 'flips'"),
        ('augment.layers=[{"name":"GridMusk"}]', "Did you mean 'GridMask'"),
        ("train.backbone=efficientnetv2b0", "Did you mean 'efficientnetv2-b0'"),
        ("policy=fliqs", "Did you mean 'flips'"),
        ("ingest.image_size_pixels=12", "--set train.input_size_pixels=16"),
        ("train.initial_weights=imagenet", "no ImageNet weights of cnn"),
    ],
)
def test_a_wrong_change_names_what_is_right(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        change(PipelineConfig(), [text])


def test_a_policy_replaces_the_layers_and_nothing_else() -> None:
    recipe = recipe_named("demo").config
    changed = change(recipe, ["policy=randaugment-mix", "augment.copies=2"])
    assert [layer.name for layer in changed.augment.layers] == ["RandAugment", "CutMix", "MixUp"]
    assert changed.augment.copies == 2  # a later change has the last word
    assert changed.train.online == ()
    assert changed.train == recipe.train
    assert changed.augment.seed == recipe.augment.seed
    bare = change(changed, ["policy=none"])
    assert (bare.augment.layers, bare.augment.copies, bare.train.online) == ((), 0, ())


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_a_config(name: str) -> None:
    config = change(PipelineConfig(), [f"policy={name}"])
    assert bool(config.augment.layers) == bool(config.augment.copies)
