from __future__ import annotations

import pytest

from hemaflow.flows.config.changes import build, change
from hemaflow.flows.config.policies import POLICIES
from hemaflow.flows.config.recipes import recipe_named
from hemaflow.flows.config.recorded import recorded_config
from hemaflow.flows.config.stages import PipelineConfig
from hemaflow.infra.errors import ConfigError
from hemaflow.tasks.train.config import TrainConfig


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
        ("train.backbone=efficientnetv2b0", "Did you mean 'efficientnetv2-b0'"),
        ("policy=fliqs", "Did you mean 'flips'"),
        ("ingest.image_size_pixels=12", "--set train.input_size_pixels=16"),
        ("train.initial_weights=imagenet", "no ImageNet weights of cnn"),
    ],
)
def test_a_wrong_change_names_what_is_right(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        change(PipelineConfig(), [text])


def test_a_wrong_layer_is_answered_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'GridMask'"):
        change(PipelineConfig(), ["augment.copies=1", 'augment.layers=[{"name":"GridMusk"}]'])


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.focal_gamma=1"], r"train.focal_gamma has no effect here: it has one only with loss=focal"),
        (["train.focal_gamma=2.0"], "train.focal_gamma has no effect"),
        (["train.plateau_patience=5"], "train.plateau_patience .*schedule=plateau"),
        (["train.schedule=constant", "train.warmup_epochs=2"], "train.warmup_epochs .*schedule=cosine"),
        (
            ["train.weight_decay=0.1", "train.optimizer=adam"],
            "train.weight_decay .*adamw or lion or sgd",
        ),
        (["train.transfer.learning_rate=0.1"], "train.transfer.learning_rate .*epochs above 0"),
        (
            ['train.transfer={"epochs":0,"learning_rate":0.1}'],
            "learning_rate has an .*with epochs above 0",
        ),
        (["train.head_units=[]", "train.dropout=0.5"], "train.dropout .*head_units that are not empty"),
        (['train.ensemble_of=["run:a","run:b"]', "train.seed=1"], "train.seed .*an empty ensemble_of"),
        (['augment.layers=[{"name":"Grayscale"}]'], "augment.layers .*copies above 0"),
        (["evaluate.tta_max_views=3"], "evaluate.tta_max_views .*tta=search"),
        (
            ["evaluate.robustness=none", "evaluate.robustness_images=9"],
            "robustness_images .*heavy_mix or",
        ),
        (["ingest.num_folds=3", "ingest.test_share=0.2"], "ingest.test_share .*num_folds=0"),
        (["train.average_epochs=1"], "0, or 2 or more"),
    ],
)
def test_a_field_without_effect_cannot_be_set(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        change(PipelineConfig(), changes)


def test_fields_that_lose_their_effect_get_their_defaults() -> None:
    recipe = recipe_named("laptop-robust").config
    assert recipe.train.warmup_epochs == 0.2
    assert change(recipe, ["train.schedule=constant"]).train.warmup_epochs == 1.0
    averaged = change(recipe, ['train.ensemble_of=["run:a","run:b"]']).train
    assert averaged == TrainConfig(ensemble_of=("run:a", "run:b"))
    assert change(recipe, ["train.loss=focal", "train.focal_gamma=1"]).train.focal_gamma == 1.0


def test_a_test_share_may_be_set_beside_a_reference() -> None:
    """Retraining adds the reference once there is a champion; the changes stay those of the first run."""
    changed = change(PipelineConfig(), ["ingest.test_share=0.2", f"ingest.reference=ingest:{'0' * 64}"])
    assert changed.ingest.test_share == 0.2


def test_a_recipe_cannot_hold_a_field_without_effect() -> None:
    with pytest.raises(ConfigError, match="focal_gamma has an effect only with loss=focal"):
        build({"train": {"focal_gamma": 1.0}})
    assert build({"train": {"focal_gamma": 2.0}}) == PipelineConfig()


def test_the_config_of_an_older_record_is_read() -> None:
    document = recipe_named("laptop").config.model_dump(mode="json")
    document["train"] |= {
        "initial_weights_sha256": "0" * 64,
        "initial_classes": ["red"],
        "ensemble_sha256": [],
        "focal_gamma": 1.0,
    }
    assert recorded_config(document) == recipe_named("laptop").config
    with pytest.raises(ConfigError, match="Extra inputs"):
        recorded_config({"train": {"depth": 3}})
