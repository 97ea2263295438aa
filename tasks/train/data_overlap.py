"""The overlap between the images that a model was trained on and those that it is evaluated on.

The facts of a result of train hold the digests of its own data and of the data of the models that it starts
from or averages (`trained_on`). Where these differ from the data that it is evaluated on, its training images
may include images of val and test: `data_overlap` counts them, by the SHA-256 of their pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.store.base import Store, in_parallel
from hemaflow.tasks.core.facts import IngestFacts, Split, TrainFacts
from hemaflow.tasks.records.index import Index

EVALUATED: tuple[Split, ...] = ("val", "test")


def trained_on(ingest: Manifest, models: Iterable[Manifest]) -> list[str]:
    """Return the digests of all data that shapes a model, its own first.

    Args:
        ingest: The data of the training.
        models: The results of train that it starts from, or averages.
    """
    earlier = (digest for model in models for digest in TrainFacts.of(model).trained_on)
    return list(dict.fromkeys((ingest.digest, *earlier)))


def images_of(store: Store, ingest: Manifest, split: Split) -> set[bytes]:
    """Return the SHA-256 of the pixels of a split's images."""
    index = Index.of(store, ingest)
    return {sha256.tobytes() for sha256 in index.sha256[index.places(split)]}


def data_overlap(store: Store, ingest: Manifest, digests: Sequence[str]) -> dict[str, int | None]:
    """Return how many images of val and of test are training images of other data; {} without other data.

    A count is None where it is unknown: the other data is gone from the store, or has another image size.

    Args:
        store: Holds the other data.
        ingest: The data that the model is evaluated on.
        digests: The result of `trained_on`.
    """
    others = set(digests) - {ingest.digest}
    if not others:
        return {}
    found = _with_digests(store, others)
    sizes = {IngestFacts.of(other).image_size_pixels for other in found.values()}
    if found.keys() != others or sizes != {IngestFacts.of(ingest).image_size_pixels}:
        return dict.fromkeys(EVALUATED)
    trained = set[bytes]().union(*(images_of(store, other, "train") for other in found.values()))
    return {split: len(images_of(store, ingest, split) & trained) for split in EVALUATED}


def _with_digests(store: Store, digests: set[str]) -> Mapping[str, Manifest]:
    names = [name for name in store.list("stages/ingest/") if name.endswith("/manifest.json")]
    found = in_parallel(lambda name: load_manifest(store, "ingest", name.split("/")[2]), names)
    manifests = (loaded[0] for loaded in found if loaded)
    return {manifest.digest: manifest for manifest in manifests if manifest.digest in digests}
