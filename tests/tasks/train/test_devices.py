"""Training on two devices: that of one, at the same batch size, for each backend that can."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.absent import ROOT, run_without
from hemaflow.infra.errors import ConfigError
from hemaflow.tasks.train.devices import _chosen

TRAINING = """
import json, os, signal, sys
sys.path.insert(0, "tests")
from pathlib import Path
import keras
import numpy as np
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from helpers.networks import TWO_LAYERS, two_layers_registered
from helpers.pictures import inputs, parents
from hemaflow.infra.errors import Interrupted
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.train import loop
from hemaflow.tasks.train.config import ResolvedTrainConfig
from hemaflow.tasks.train.devices import divided, use_devices
from hemaflow.tasks.train.stage import run

loop.PROGRESS_SECONDS = 0.0
store = LocalStore(Path(sys.argv[1]))
results = parents(store, num_train=43)
def train(devices, progress=lambda *_: None):
    os.environ["HEMAFLOW_DEVICES"] = str(devices)
    return run(results, config, Draft(store, inputs(f"train{devices}"), progress))

def cut(done, total, message):
    if done == 2:
        os.kill(os.getpid(), signal.SIGTERM)

with two_layers_registered():
    config = ResolvedTrainConfig(
        backbone=TWO_LAYERS, batch_size=int(sys.argv[2]), head_units=(16,), dropout=0.0, optimizer="sgd",
        schedule="constant", ema_momentum=0.5, gradient_clip_norm=0.5, class_weights="balanced",
        fine_tuning={"epochs": 1, "learning_rate": 0.1},
    )
    one = train(1)
    try:
        two = train(2, cut if sys.argv[3:] else lambda *_: None)
    except Interrupted:
        two = train(2)
with use_devices("off"):
    pixels = keras.Input((4, 4, 3))
    model = divided(keras.Model(pixels, keras.layers.Identity()(pixels)))
    if keras.backend.backend() == "tensorflow":
        print(tf.distribute.get_strategy().num_replicas_in_sync)
    else:
        print(8 // len(model(np.zeros((8, 4, 4, 3))).addressable_shards[0].data))
for made in (one, two):
    model = keras.saving.load_model(made.path(store, "model.keras"), compile=False)
    weights = [weight.tolist() for weight in model.get_weights()]
    history = json.loads(made.read(store, "history.json"))
    print(json.dumps([history, made.facts, json.dumps(model.get_config()), weights]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "arguments", "variables"),
    [
        # Batches of 15, 15 and 13 images: a replica has more of them than the other. SIGTERM comes after two.
        ("tensorflow", (15, "cut"), {}),
        # Batches of 16, 16 and 11.
        (
            "jax",
            (16,),
            {"XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"},
        ),
    ],
)
def test_two_devices_train_as_one(
    backend: str, arguments: tuple[object, ...], variables: dict[str, str], tmp_path: Path
) -> None:
    absent = {"tensorflow": "jax", "jax": "tensorflow"}[backend]
    said = run_without(
        absent, TRAINING, tmp_path, *arguments, KERAS_BACKEND=backend, PYTHONPATH=str(ROOT), **variables
    )
    num_devices, one, two = (json.loads(line) for line in said.splitlines()[-3:])
    assert num_devices == 2
    for row, other in zip(one[0], two[0], strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"phase"}:
            assert other[name] == pytest.approx(row[name], rel=1e-4), name
    assert one[1] == two[1]
    assert one[2] == two[2]
    for weight, other in zip(one[3], two[3], strict=True):
        np.testing.assert_allclose(other, weight, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("asked", "accelerators", "together", "expected"),
    [
        ("0", ["gpu:0", "gpu:1"], True, ["gpu:0", "gpu:1"]),
        ("0", ["gpu:0", "gpu:1"], False, ["gpu:0"]),
        ("1", ["gpu:0", "gpu:1"], True, ["gpu:0"]),
        ("0", [], True, ["cpu:0"]),
        ("2", [], True, ["cpu:0", "cpu:1"]),
    ],
)
def test_all_gpus_train_or_as_many_as_the_setting_says(
    monkeypatch: pytest.MonkeyPatch, asked: str, accelerators: list[str], together: bool, expected: list[str]
) -> None:
    monkeypatch.setenv("HEMAFLOW_DEVICES", asked)
    assert _chosen(accelerators, ["cpu:0", "cpu:1"], together) == expected


def test_more_devices_than_there_are_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEMAFLOW_DEVICES", "3")
    with pytest.raises(ConfigError, match="not as many devices") as raised:
        _chosen(["gpu:0", "gpu:1"], ["cpu:0"], True)
    assert "at most 2" in str(raised.value)
