"""Where images come from: one interface over folders, buckets, zips, npz files, BloodMNIST and drawn cells.

A source lists what it holds without decoding it (`scan`), and gives any picture on demand (`read`), so that
memory does not grow with the number of images. What it cannot use it lists as findings; a source that cannot
be used at all raises DataError. Nothing in a source is ever unpickled, unpacked next to other files, or
decompressed beyond what it declares.
"""

from __future__ import annotations

from pathlib import Path

from hemaflow.infra.errors import DataError, nearest
from hemaflow.infra.settings import Settings
from hemaflow.tasks.sources.base import Source
from hemaflow.tasks.sources.folders import FolderSource, S3Source
from hemaflow.tasks.sources.npz import NpzSource
from hemaflow.tasks.sources.sample_cells import SampleSource
from hemaflow.tasks.sources.zips import ZipSource


def open_source(data: str, settings: Settings) -> Source:
    """Return the source that `--data` names. Raises DataError where there is none."""
    if data == "sample":
        return SampleSource()
    if data.split("-")[0] == "bloodmnist":
        from hemaflow.tasks.sources.bloodmnist import BloodMnistSource

        return BloodMnistSource(data, settings)
    if data.startswith("s3://"):
        return S3Source(data, settings)
    path = Path(data).expanduser()
    if path.is_dir():
        return FolderSource(path, settings.link_folders)
    if path.is_file() and path.suffix == ".npz":
        return NpzSource(path)
    if path.is_file() and path.suffix == ".zip":
        return ZipSource(path)
    known = ["sample", "bloodmnist", "bloodmnist-64", "bloodmnist-128", "bloodmnist-224"]
    raise DataError(
        "There is no such data source.",
        expected="a folder, .zip or s3://bucket/prefix with one folder per class, an .npz with images and "
        "labels, or a name: " + nearest(data, known),
        received=f"--data {data}" + ("" if path.exists() else " (no such file)"),
        remedy="Check the path, or try the drawn cells first: --data sample",
    )
