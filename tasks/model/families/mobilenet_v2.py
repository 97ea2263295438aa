"""MobileNetV2, arXiv:1801.04381: inverted residuals, for phones; in four widths."""

from __future__ import annotations

from hemaflow.tasks.model.backbones import BACKBONES, Backbone

for name, alpha, num_parameters in (
    ("mobilenetv2-0.35", 0.35, 410_208),
    ("mobilenetv2-0.5", 0.5, 706_224),
    ("mobilenetv2-0.75", 0.75, 1_382_064),
    ("mobilenetv2", 1.0, 2_257_984),
):
    BACKBONES.register(name)(
        Backbone(
            application="MobileNetV2",
            preprocessing="tf",
            native_pixels=224,
            num_parameters=num_parameters,
            last_stage="block_13_expand",
            source="arXiv:1801.04381",
            arguments={"alpha": alpha},
        )
    )
