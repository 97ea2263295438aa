"""A prefix of an S3 bucket with one folder per class."""

from __future__ import annotations

from hemaflow.infra.settings import Settings
from hemaflow.tasks.sources.base import Scan, Source
from hemaflow.tasks.sources.kinds.folders import FolderSource
from hemaflow.tasks.sources.registry import SOURCES


@SOURCES.register("s3")
class S3Source(FolderSource):
    """A prefix of a bucket with one folder per class; its files are fetched when the source is scanned."""

    form = "s3://bucket/prefix with one folder per class"

    def __init__(self, url: str, settings: Settings) -> None:
        from hemaflow.infra.store.s3_folder import S3Folder  # boto3 takes its time to load

        self._folder = S3Folder(url, settings)
        super().__init__(self._folder.path, settings)
        # The workers of a cluster on other machines have no copy of the files.
        self.is_random_access = not settings.cluster  # type: ignore[misc]

    @classmethod
    def opened(cls, data: str, settings: Settings) -> Source | None:
        """See Source."""
        return S3Source(data, settings) if data.startswith("s3://") else None

    def content_digest(self) -> str:
        """See Source: by the listing alone."""
        return self._folder.content_digest()

    def scan(self) -> Scan:
        """See Source."""
        self._folder.fetch()
        return super().scan()
