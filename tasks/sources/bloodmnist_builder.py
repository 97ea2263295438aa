"""The tensorflow-datasets builder of BloodMNIST: download, MD5 check, official splits.

tensorflow-datasets 4.9.10 has no BloodMNIST of its own. Loads TensorFlow; nothing imports it before data are
really read.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.core.facts import SPLITS, Split
from hemaflow.tasks.sources.archives import open_zip, read_array, stream_rows
from hemaflow.tasks.sources.bloodmnist_releases import Release

REACH_SECONDS = 20.0
"""Time in which the host must answer."""


class Example(TypedDict):
    """One image, as tensorflow-datasets keeps it."""

    image: NDArray[np.generic]
    label: int
    index: int


Examples = Iterator[tuple[int, Example]]
"""Key → example."""


class BloodMnist(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """Peripheral blood cells in eight classes, 17,092 images as published: 11,959 / 1,712 / 3,421."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = ()

    def __init__(self, *, release: Release, manual_file: Path, **arguments: object) -> None:
        self._release, self._manual_file = release, manual_file
        super().__init__(**arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._release.size_pixels
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(PBC_CLASSES)),
                    "index": np.int64,
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://medmnist.com/",
            citation="Yang et al., MedMNIST v2, Scientific Data 10, 2023, doi:10.1038/s41597-022-01721-8",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        path = self._manual_file if self._manual_file.is_file() else self._download(dl_manager)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != self._release.md5:
            raise DataError(
                f"{self._release.file} is not the published file.",
                expected=f"MD5 {self._release.md5}",
                received=f"MD5 {found}",
                where=str(path),
                remedy=f"Remove it and download it again from {self._release.url}",
            )
        return {split: self._generate_examples(path, split) for split in SPLITS}

    def _generate_examples(self, path: Path, split: str) -> Examples:
        with open_zip(path) as archive:
            labels = read_array(archive, f"{split}_labels", path).reshape(-1)
            images = stream_rows(archive, f"{split}_images", path)
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield index, {"image": image, "label": int(label), "index": index}

    def _download(self, dl_manager: tfds.download.DownloadManager) -> Path:
        try:
            _reach(self._release.url)
            return Path(dl_manager.download(self._release.url))
        except Exception as error:  # the host is not there in as many ways as there are networks
            raise DataError(
                f"{self._release.file} could not be downloaded.",
                received=f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}",
                where=self._release.url,
                remedy="Download it by hand, put it here, and run the same command again:\n"
                f"  {self._manual_file}",
            ) from error


def _reach(url: str) -> None:
    """Raise OSError where the host cannot be reached; tensorflow-datasets tries a hundred times before."""
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 (the address is our own)
    try:
        urllib.request.urlopen(request, timeout=REACH_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        pass  # there is a host, and what it says is for the download to tell


def prepared(name: str, release: Release, download_dir: Path, manual_dir: Path) -> BloodMnist:
    """Return the builder with its data prepared under `download_dir`. Raises DataError."""
    tfds.display_progress_bar(enable=False)
    builder = BloodMnist(
        release=release, manual_file=manual_dir / release.file, data_dir=str(download_dir / name)
    )
    builder.download_and_prepare()
    return builder


def examples(builder: BloodMnist) -> Iterator[tuple[Split, int, NDArray[np.uint8], int]]:
    """Yield (split, row within it, uint8[S, S, 3], label) of all splits."""
    config = tfds.ReadConfig(interleave_cycle_length=1)
    for split in SPLITS:
        for example in tfds.as_numpy(builder.as_dataset(split=split, read_config=config)):
            yield split, int(example["index"]), example["image"], int(example["label"])
