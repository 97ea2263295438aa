"""The classes of the PBC images, which BloodMNIST, the competition and the drawn cells share."""

from __future__ import annotations

PBC_CLASSES = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "immature granulocyte",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)
"""The eight classes of the PBC images in their label order (Acevedo et al., Data in Brief 30, 2020)."""
