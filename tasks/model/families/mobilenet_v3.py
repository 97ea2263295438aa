"""MobileNetV3, arXiv:1905.02244: MobileNetV2 with squeeze-and-excite, found by search."""

from __future__ import annotations

from hemaflow.tasks.model.backbones import BACKBONES, Backbone

for size, num_parameters, last_stage in (
    ("Small", 939_120, "expanded_conv_8_expand"),
    ("Large", 2_996_352, "expanded_conv_12_expand"),
):
    BACKBONES.register(f"mobilenetv3-{size.lower()}")(
        Backbone(
            application=f"MobileNetV3{size}",
            preprocessing="none",
            native_pixels=224,
            num_parameters=num_parameters,
            last_stage=last_stage,
            source="arXiv:1905.02244",
        )
    )
