from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hemaflow.infra.errors import ConfigError, StageError
from hemaflow.infra.store.base import file_sha256
from hemaflow.tasks.layers.online import OnlineLayer
from hemaflow.tasks.model.backbones import build_backbone, check_backbone
from hemaflow.tasks.model.network import assemble, build_network, load_backbone_weights, unfreeze

ONLINE = (
    OnlineLayer(name="RandomFlip"),
    OnlineLayer(name="RandomRotation", factors={"factor": 0.5, "fill_mode": "reflect"}),
    OnlineLayer(name="RandomBrightness", factors={"factor": 0.1}),
    OnlineLayer(name="RandomSaturation", factors={"factor": (0.4, 0.6)}),
)


@pytest.mark.slow
def test_online_layers_act_in_training_only_and_are_not_in_the_saved_graph() -> None:
    body, head = build_network("cnn", None, 24, 3, (), 0.0)
    trained = assemble("cnn", body, head, 24, to_train=True, online=ONLINE, seed=1)
    saved = assemble("cnn", body, head, 24, to_train=False)
    images = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3)).astype(np.float32)
    np.testing.assert_allclose(np.array(trained(images, training=False)), np.array(saved(images)), atol=1e-6)
    assert not np.allclose(np.array(trained(images, training=True)), np.array(saved(images)), atol=1e-3)
    online = [layer.name for layer in trained.layers if layer.name.startswith("online")]
    assert len(online) == len(ONLINE)
    assert not [layer for layer in saved.layers if layer.name.startswith("online")]


@pytest.mark.slow
def test_freezing_leaves_batch_norm_as_it_was_unless_asked() -> None:
    body = build_backbone("mobilenetv2-0.35", 32, None)
    unfreeze(body, "block_13_expand", train_batch_norm=False)
    learns = {layer.name: layer.trainable for layer in body.layers}
    assert learns["block_13_expand"]
    assert not learns["block_13_expand_BN"]
    assert not learns["block_12_expand"]
    unfreeze(body, -3, train_batch_norm=True)
    assert [layer.name for layer in body.layers if layer.trainable] == [
        layer.name for layer in body.layers[-3:]
    ]
    with pytest.raises(ConfigError, match="Did you mean 'block_13_expand'"):
        unfreeze(body, "block_13_expnad", train_batch_norm=False)
    with pytest.raises(ConfigError, match="an index below"):
        unfreeze(body, 999, train_batch_norm=False)


def test_names_are_checked() -> None:
    with pytest.raises(ValueError, match="Did you mean 'efficientnetv2-b0'"):
        check_backbone("efficientnetv2b0")


@pytest.mark.slow
def test_weights_of_a_file_are_used_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "cnn.weights.h5"
    first, second = build_backbone("cnn", 24, None), build_backbone("cnn", 48, None)
    first.save_weights(path)
    load_backbone_weights(second, str(path), file_sha256(path))
    np.testing.assert_array_equal(first.get_weights()[0], second.get_weights()[0])
    with pytest.raises(StageError, match="was changed or removed"):
        load_backbone_weights(second, str(path), "0" * 64)
    other = build_backbone("mobilenetv2-0.35", 32, None)
    with pytest.raises(StageError, match="do not fit the backbone"):
        load_backbone_weights(other, str(path), file_sha256(path))


@pytest.mark.slow
def test_real_pretrained_weights_fit(shared_dir: Path) -> None:
    path = shared_dir / "weights" / "mobilenetv2_0.35_224_imagenet_notop.weights.h5"
    body = build_backbone("mobilenetv2-0.35", 96, None)
    before = body.get_weights()[0].copy()
    load_backbone_weights(body, str(path), file_sha256(path))
    assert not np.array_equal(before, body.get_weights()[0])
