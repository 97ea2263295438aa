"""What a model has learnt from already: the images of every training that its weights went through.

A result of train tells its own data among its facts, and that of the models it began from or averages:
`learnt_from`, digests of results of ingest. Where these are others than the data it is judged on, images of
val and test may be among what it learnt from: `already_learnt` counts them, by the SHA-256 of their pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.store.base import Store, in_parallel
from hemaflow.tasks.core.facts import Split
from hemaflow.tasks.records.index import read_index

JUDGED: tuple[Split, ...] = ("val", "test")


def learnt_from(ingest: Manifest, models: Iterable[Manifest]) -> list[str]:
    """Return the digests of all data that a training learns from, its own first.

    Args:
        ingest: The data of the training.
        models: The results of train that it begins from, or averages.
    """
    earlier = (digest for model in models for digest in model.facts["learnt_from"])
    return list(dict.fromkeys((ingest.digest, *earlier)))


def images_of(store: Store, ingest: Manifest, split: Split) -> set[str]:
    """Return the SHA-256 of the pixels of a split's images."""
    rows = read_index(ingest.read(store, "index.csv"))
    return {row.sha256 for row in rows if row.split == split}


def already_learnt(store: Store, ingest: Manifest, digests: Sequence[str]) -> dict[str, int | None]:
    """Return how many images of val and test were learnt from, where other data was; {} where none was.

    A count is None where it cannot be told: the other data is gone from the store, or of another image size.

    Args:
        store: Holds the other data.
        ingest: The data that is judged on.
        digests: What `learnt_from` gave.
    """
    others = set(digests) - {ingest.digest}
    if not others:
        return {}
    found = _with_digests(store, others)
    sizes = {other.facts["image_size_pixels"] for other in found.values()}
    if found.keys() != others or sizes != {ingest.facts["image_size_pixels"]}:
        return dict.fromkeys(JUDGED)
    learnt = set[str]().union(*(images_of(store, other, "train") for other in found.values()))
    return {split: len(images_of(store, ingest, split) & learnt) for split in JUDGED}


def _with_digests(store: Store, digests: set[str]) -> Mapping[str, Manifest]:
    names = [name for name in store.list("stages/ingest/") if name.endswith("/manifest.json")]
    found = in_parallel(lambda name: load_manifest(store, "ingest", name.split("/")[2]), names)
    manifests = (loaded[0] for loaded in found if loaded)
    return {manifest.digest: manifest for manifest in manifests if manifest.digest in digests}
