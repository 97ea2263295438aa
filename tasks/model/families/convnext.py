"""ConvNeXt, arXiv:2201.03545: convolutions arranged like a vision transformer."""

from __future__ import annotations

from hemaflow.tasks.model.backbones import BACKBONES, Backbone

for size, num_parameters in (
    ("Tiny", 27_820_128),
    ("Small", 49_454_688),
    ("Base", 87_566_464),
    ("Large", 196_230_336),
    ("XLarge", 348_147_968),
):
    BACKBONES.register(f"convnext-{size.lower()}")(
        Backbone(
            application=f"ConvNeXt{size}",
            preprocessing="none",
            native_pixels=224,
            num_parameters=num_parameters,
            last_stage=f"convnext_{size.lower()}_downsampling_block_2",
            source="arXiv:2201.03545",
        )
    )
