"""DenseNet, arXiv:1608.06993: each layer takes the features of all before it in its block."""

from __future__ import annotations

from hemaflow.tasks.model.backbones import BACKBONES, Backbone

BACKBONES.register("densenet121")(
    Backbone(
        application="DenseNet121",
        preprocessing="torch",
        native_pixels=224,
        num_parameters=7_037_504,
        last_stage="conv5_block1_0_bn",
        source="arXiv:1608.06993",
    )
)
