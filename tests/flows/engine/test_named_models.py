"""Models of other runs, to start from or to average: what is found, what enters the key, what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.results import NAMES, engine, run
from hemaflow.flows.engine.engine import Engine
from hemaflow.flows.runs.champion import promote
from hemaflow.flows.runs.find import find_run
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.runs.upkeep import collect_garbage
from hemaflow.infra.errors import ConfigError, UserError
from hemaflow.infra.results.manifest import load_manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.train.config import ResolvedTrainConfig


def first(store: LocalStore, content: bytes = b"", seed: int = 0) -> RunRecord:
    return run(store, {"train": {"seed": seed}}, content=content)


def starting(store: LocalStore, weights: str, **changes: Any) -> Engine:
    return engine(store, {"train": {"initial_weights": weights, "seed": 9} | changes})


def key(own: Engine) -> str:
    return own.inputs("train", {}.fromkeys(("ingest", "augment"), load_any(own))).key  # type: ignore[arg-type]


def resolved(own: Engine) -> ResolvedTrainConfig:
    config = own.stage_config("train")
    assert isinstance(config, ResolvedTrainConfig)
    return config


def load_any(own: Engine) -> Any:
    found = load_manifest(own.store, "train", find_run(own.store).key("train") or "")
    assert found
    return found[0]


def test_a_run_is_found_with_the_digest_and_the_classes_of_its_model(store: LocalStore) -> None:
    made = first(store)
    promote(store, made, "the first")
    found = load_manifest(store, "train", made.key("train") or "")
    assert found
    for name in (f"run:{made.run}", "run:champion", f"run:{made.run[-4:]}", f"train:{made.key('train')}"):
        config = resolved(starting(store, name))
        assert config.initial_weights == f"train:{made.key('train')}"
        assert config.initial_weights_sha256 == found[0].object("model.keras").sha256
        assert config.initial_classes == ("blue", "green", "red")


def test_what_enters_the_key_is_the_model_and_not_the_run(store: LocalStore) -> None:
    one, same, other = first(store), first(store, seed=1), first(store, b"other", seed=2)
    assert len({record.key("train") for record in (one, same, other)}) == 3
    keys = [key(starting(store, f"run:{record.run}")) for record in (one, same, other)]
    assert keys[0] == keys[1] != keys[2]


def test_a_run_keeps_the_model_that_it_starts_from(store: LocalStore) -> None:
    made = first(store)
    record = run(store, {"train": {"initial_weights": f"run:{made.run}"}})
    assert record.needs["initial-weights"] == made.key("train")
    assert record.config["train"]["initial_weights"] == f"train:{made.key('train')}"
    collect_garbage(store, keep_runs=1, grace_seconds=0)
    assert load_manifest(store, "train", made.key("train") or "")
    again = starting(store, f"train:{made.key('train')}")
    assert resolved(again).initial_classes == ("blue", "green", "red")


def test_what_cannot_be_started_from_is_a_mistake(store: LocalStore) -> None:
    made = first(store)
    with pytest.raises(UserError, match="No run is called 'ffff'"):
        starting(store, "run:ffff")
    with pytest.raises(UserError, match=r"(?i)champion"):
        starting(store, "run:champion")
    with pytest.raises(UserError, match="no such model in this store"):
        starting(store, "train:" + "0" * 64)
    with pytest.raises(ConfigError, match=r"another backbone.*\n.*mobilenetv2\n.*backbone=cnn"):
        starting(store, f"run:{made.run}", backbone="mobilenetv2")
    unfinished = run(store, {"ingest": {"seed": 3}}, until_stage="augment", names=NAMES)
    with pytest.raises(UserError, match=f"{unfinished.run} has no result of train"):
        starting(store, f"run:{unfinished.run}")


def test_a_run_that_ends_before_train_needs_no_model(store: LocalStore) -> None:
    made = engine(store, {"train": {"initial_weights": "run:ffff"}}, until_stage="augment")
    assert [decision.stage for decision in made.plan()] == ["ingest", "augment"]


def test_the_members_of_an_ensemble_are_found_and_kept(store: LocalStore) -> None:
    made = [first(store, str(seed).encode(), seed) for seed in range(3)]
    names = [f"run:{record.run}" for record in made]
    config = resolved(engine(store, {"train": {"ensemble_of": names}}))
    assert config.ensemble_of == tuple(f"train:{record.key('train')}" for record in made)
    assert len(set(config.ensemble_sha256)) == 3
    record = run(store, {"train": {"ensemble_of": names}}, facts={"backbone": "ensemble"})
    assert {record.needs[f"member-{number}"] for number in (1, 2, 3)} == {one.key("train") for one in made}
    collect_garbage(store, keep_runs=1, grace_seconds=0)
    assert all(load_manifest(store, "train", one.key("train") or "") for one in made)
    with pytest.raises(ConfigError, match="it is an ensemble"):
        starting(store, f"run:{record.run}")


def test_what_enters_the_key_is_the_members_content(store: LocalStore) -> None:
    one, same, other = first(store), first(store, seed=1), first(store, b"other", seed=2)

    def averaging(*records: RunRecord) -> str:
        return key(engine(store, {"train": {"ensemble_of": [f"run:{record.run}" for record in records]}}))

    assert averaging(one, other) == averaging(same, other) != averaging(one, same)
