"""The files of BloodMNIST that are published, with their checksums. Loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RECORD = "https://zenodo.org/records/10519652/files"


@dataclass(frozen=True)
class Release:
    """One file of the record. The MD5 sums are those of the MedMNIST package's own table (medmnist.INFO)."""

    file: str
    md5: str
    size_pixels: int
    record: str = RECORD

    @property
    def url(self) -> str:
        """Where it is downloaded."""
        return f"{self.record}/{self.file}?download=1"


RELEASES: Mapping[str, Release] = {
    "bloodmnist": Release("bloodmnist.npz", "7053d0359d879ad8a5505303e11de1dc", 28),
    "bloodmnist-64": Release("bloodmnist_64.npz", "2b94928a2ae4916078ca51e05b6b800b", 64),
    "bloodmnist-128": Release("bloodmnist_128.npz", "adace1e0ed228fccda1f39692059dd4c", 128),
    "bloodmnist-224": Release("bloodmnist_224.npz", "b718ff6835fcbdb22ba9eacccd7b2601", 224),
}
