"""ResNet, arXiv:1512.03385, and its second version with pre-activation, arXiv:1603.05027."""

from __future__ import annotations

from hemaflow.tasks.model.backbones import BACKBONES, Backbone

for depth, num_parameters in ((50, 23_587_712), (101, 42_658_176)):
    BACKBONES.register(f"resnet{depth}")(
        Backbone(
            application=f"ResNet{depth}",
            preprocessing="caffe",
            native_pixels=224,
            num_parameters=num_parameters,
            last_stage="conv5_block1_1_conv",
            source="arXiv:1512.03385",
        )
    )

for depth, num_parameters in ((50, 23_564_800), (101, 42_626_560)):
    BACKBONES.register(f"resnet{depth}v2")(
        Backbone(
            application=f"ResNet{depth}V2",
            preprocessing="tf",
            native_pixels=224,
            num_parameters=num_parameters,
            last_stage="conv5_block1_preact_bn",
            source="arXiv:1603.05027",
        )
    )
