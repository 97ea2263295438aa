"""EfficientNetV2, arXiv:2104.00298: EfficientNet with fused convolutions, faster to train."""

from __future__ import annotations

from hemaflow.tasks.model.backbones import BACKBONES, Backbone

for size, native_pixels, num_parameters in (
    ("B0", 224, 5_919_312),
    ("B1", 240, 6_931_124),
    ("B2", 260, 8_769_374),
    ("B3", 300, 12_930_622),
    ("S", 384, 20_331_360),
    ("M", 480, 53_150_388),
    ("L", 480, 117_746_848),
):
    BACKBONES.register(f"efficientnetv2-{size.lower()}")(
        Backbone(
            application=f"EfficientNetV2{size}",
            preprocessing="none",
            native_pixels=native_pixels,
            num_parameters=num_parameters,
            last_stage="block6a_expand_conv",
            source="arXiv:2104.00298",
        )
    )
