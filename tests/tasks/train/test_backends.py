"""One saved model, two backends of Keras: the same predictions, though neither knows of the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.absent import run_without
from helpers.pictures import CLASSES, SIZE, inputs, parents
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.model.network import assemble, build_network
from hemaflow.tasks.model.saving import save_model
from hemaflow.tasks.train.config import ResolvedTrainConfig
from hemaflow.tasks.train.stage import run

pytestmark = pytest.mark.slow

PIXELS = 32
"""What the second network takes: more than the images have."""
TOLERANCE = 1e-4
"""Of a probability, in float32."""

PREDICTING = """
import keras, numpy as np, sys
assert keras.backend.backend() == sys.argv[1]
images, folder, *names = sys.argv[2:]
for name in names:
    model = keras.saving.load_model(f"{folder}/{name}.keras", compile=False, safe_mode=True)
    np.save(f"{folder}/{name}-{sys.argv[1]}.npy", np.asarray(model.predict(np.load(images), verbose=0)))
"""


def predictions(backend: str, images: Path, folder: Path, names: list[str]) -> dict[str, NDArray[np.float32]]:
    absent = "tensorflow" if backend == "jax" else "jax"
    run_without(absent, PREDICTING, backend, images, folder, *names, KERAS_BACKEND=backend)
    return {name: np.load(folder / f"{name}-{backend}.npy") for name in names}


@pytest.mark.timeout(600)
def test_backends_give_the_same_predictions_from_the_same_model(store: LocalStore, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    config = ResolvedTrainConfig(
        batch_size=16, head_units=(16,), fine_tuning={"epochs": 8, "learning_rate": 0.003}
    )
    trained = run(parents(store), config, Draft(store, inputs("train")))
    (tmp_path / "trained.keras").write_bytes(trained.read(store, "model.keras"))
    body, head = build_network("mobilenetv2-0.35", None, PIXELS, len(CLASSES), (), 0.0)
    save_model(assemble("mobilenetv2-0.35", body, head, SIZE, to_train=False), tmp_path / "resizing.keras")
    images = np.random.default_rng(0).integers(0, 120, (30, SIZE, SIZE, 3), dtype=np.uint8)
    images[np.arange(30), ..., np.arange(30) % 3] += 90
    np.save(tmp_path / "images.npy", images)

    names = ["trained", "resizing"]
    by_tensorflow = predictions("tensorflow", tmp_path / "images.npy", tmp_path, names)
    by_jax = predictions("jax", tmp_path / "images.npy", tmp_path, names)
    for name in names:
        np.testing.assert_allclose(by_jax[name], by_tensorflow[name], atol=TOLERANCE, rtol=0, err_msg=name)
    assert np.ptp(by_tensorflow["trained"], axis=0).max() > 0.5  # they say something of the images
