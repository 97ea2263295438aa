"""Drift: how new images differ from those that the champion was trained on.

Reads the index and shards of two results of ingest, `ingest` (the new one) and `champion_ingest`, and
`model.keras` of `champion_train`. New images are those of train and val whose pixels are in no split of the
champion's data. Writes

    drift.json   one row per comparison (`tasks/review/results.py`): test, statistic, effect, p, drifted

What is compared, and how:

    labels              shares of the classes, new against the champion's train: chi-squared
    red mean, …         of each colour channel over the picture, same two sets: two-sample Kolmogorov–Smirnov
    red deviation, …    the standard deviation over the picture: the same test
    sharpness           variance of the Laplacian of the luma (Pech-Pacheco et al., ICPR 2000): the same test
    predicted classes   shares of the champion's predictions, new against its val split: chi-squared
    top probability     its top probability without TTA, same two sets: Kolmogorov–Smirnov

The p values are corrected for all rows together (Holm, Scandinavian Journal of Statistics 6, 1979). A row
drifted if it is significant *and* large: with thousands of images every difference is significant, and images
of one blood smear are similar, which these tests ignore. The effect of a Kolmogorov–Smirnov test is its
distance in 0..1; that of chi-squared is Cramér's V in 0..1 of the two sets' shares, weighted equally, so that
it does not shrink when few images are new. Sets of fewer than `min_images` images are not tested.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt

from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.facts import IngestFacts, Split
from hemaflow.tasks.core.stage import Parents, StageConfig
from hemaflow.tasks.inference.classifier import Classifier, resized, split_batches
from hemaflow.tasks.records.index import Index, Row
from hemaflow.tasks.review.results import Drift, DriftFacts, DriftRow

PARENTS = ("champion_ingest", "champion_train", "ingest")
"""What `run` reads."""
STATISTICS = (
    *(f"{channel} mean" for channel in ("red", "green", "blue")),
    *(f"{channel} deviation" for channel in ("red", "green", "blue")),
    "sharpness",
)
"""Statistics of each image, in the order of `measure`."""
MIN_EXPECTED = 1.0
"""Classes with fewer expected images in one of the two sets are pooled: the chi-squared distribution needs so
many (Cochran, Biometrics 10, 1954)."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue, ITU-R BT.601."""

Images = NDArray[np.uint8]
Values = NDArray[np.float64]


class DriftConfig(StageConfig):
    """All that changes which differences count as drift."""

    alpha: float = Field(default=0.01, gt=0.0, lt=1.0)
    """Significance level: the maximum probability of a false report when nothing drifted."""
    min_cramers_v: NonNegativeFloat = 0.1
    """Smallest Cramér's V that counts as drift of shares: a small effect after Cohen (Statistical Power
    Analysis, 1988)."""
    min_ks_distance: NonNegativeFloat = 0.1
    """Smallest Kolmogorov–Smirnov distance that counts as drift of values: for normal distributions, a shift
    by a quarter of the standard deviation."""
    min_images: PositiveInt = 30
    """Minimum number of images in a set that is tested: the distributions of both tests need large sets."""
    batch_size: PositiveInt = 256
    """Number of images at once on the device and in memory."""


class Comparison(NamedTuple):
    """One test of two sets of images, not yet corrected; see `DriftRow`."""

    name: str
    test: str
    statistic: float
    effect: float
    min_effect: float
    p: float
    before: float | dict[str, float]
    now: float | dict[str, float]


def run(parents: Parents, config: DriftConfig, draft: Draft) -> Manifest:
    """Find the new images, compare, and write what drifted."""
    ingest, own = parents["ingest"], parents["champion_ingest"]
    known = Index.of(parents.store, own).rows()
    new = _new_rows(Index.of(parents.store, ingest).rows(), known)
    notes = []
    sizes = IngestFacts.of(own).image_size_pixels, IngestFacts.of(ingest).image_size_pixels
    if sizes[0] != sizes[1] or own.inputs.config.get("fit") != ingest.inputs.config.get("fit"):
        notes.append("The images were not fitted like the champion's: images that it knows count as new.")
    rows: list[DriftRow] = []
    num_train = sum(row.split == "train" for row in known)
    if min(len(new), num_train) >= config.min_images:
        rows = corrected(_comparisons(parents, new, known, config, draft, notes), config.alpha)
    elif len(new) < config.min_images:
        notes.append(f"{len(new)} new images: too few to test, fewer than {config.min_images}.")
    else:
        notes.append(f"The champion was trained on {num_train} images: too few to test against.")
    found = Drift(
        num_new_images=len(new),
        tested=bool(rows),
        drifted=[row.name for row in rows if row.drifted],
        notes=notes,
        correction="Holm",
        alpha=config.alpha,
        rows=rows,
    )
    document = found.document()
    draft.put("drift.json", json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True).encode())
    return DriftFacts.model_validate({name: document[name] for name in DriftFacts.model_fields}).commit(draft)


def measure(images: Images) -> Values:
    """Return float64[B, 7] for uint8[B, H, W, 3]: the STATISTICS of each image."""
    pixels = images.astype(np.float32)
    luma = pixels @ LUMA
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    laplacian = around - 4 * luma[:, 1:-1, 1:-1]
    columns = [pixels.mean((1, 2)), pixels.std((1, 2)), laplacian.var((1, 2))[:, None]]
    return np.concatenate(columns, axis=1).astype(np.float64)


def compare_shares(name: str, before: Sequence[str], now: Sequence[str], min_effect: float) -> Comparison:
    """Compare the shares of the classes in two sets of images."""
    from scipy.stats import chi2_contingency

    classes = sorted({*before, *now})
    counts = np.array([[side.count(c) for c in classes] for side in (list(before), list(now))], np.float64)
    shares = counts / counts.sum(1, keepdims=True)
    effect = np.sqrt(((shares[0] - shares[1]) ** 2 / (shares[0] + shares[1])).sum() / 2)
    expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    rare = expected.min(0) < MIN_EXPECTED
    while rare.any() and not rare.all() and expected[:, rare].sum(1).min() < MIN_EXPECTED:
        rare[np.where(rare, np.inf, expected.min(0)).argmin()] = True  # pool the next rarest, too
    pooled = np.column_stack([counts[:, ~rare], counts[:, rare].sum(1)])
    tested = chi2_contingency(pooled[:, pooled.sum(0) > 0], correction=False)
    named = [dict(zip(classes, side.round(4).tolist(), strict=True)) for side in shares]
    return Comparison(
        name, "chi-squared", float(tested.statistic), float(effect), min_effect, float(tested.pvalue), *named
    )


def compare_values(name: str, before: Values, now: Values, min_effect: float) -> Comparison:
    """Compare the distributions of one value over two sets of images; also report the medians."""
    from scipy.stats import ks_2samp

    tested = ks_2samp(before, now, method="asymp")
    distance = float(tested.statistic)
    medians = float(np.median(before)), float(np.median(now))
    return Comparison(
        name, "Kolmogorov-Smirnov", distance, distance, min_effect, float(tested.pvalue), *medians
    )


def corrected(comparisons: Sequence[Comparison], alpha: float) -> list[DriftRow]:
    """Return the rows of the result: each comparison with its p value after Holm, and whether it drifted."""
    rows = []
    for comparison, p in zip(comparisons, holm([c.p for c in comparisons]), strict=True):
        drifted = p < alpha and comparison.effect >= comparison.min_effect
        rows.append(DriftRow(**comparison._asdict(), p_corrected=p, drifted=drifted))
    return rows


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values corrected for being tested together, by Holm's method."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _new_rows(rows: Iterable[Row], known: Iterable[Row]) -> dict[str, Row]:
    """Return the rows of train and val whose pixels are not in the champion's data, by their ids."""
    seen = {row.sha256 for row in known}
    return {row.id: row for row in rows if row.split != "test" and row.sha256 not in seen}


def _comparisons(
    parents: Parents,
    new: Mapping[str, Row],
    known: Sequence[Row],
    config: DriftConfig,
    draft: Draft,
    notes: list[str],
) -> list[Comparison]:
    """Return every comparison that is possible; add a note for those that are not."""
    ingest, own = parents["ingest"], parents["champion_ingest"]
    classifier = Classifier.load(parents, parents["champion_train"], own, ("identity",), config.batch_size)
    total = len(new) + sum(row.split != "test" for row in known)
    done = 0

    def pictures(of: Manifest, split: Split, wanted: Collection[str] | None = None) -> Iterator[Images]:
        """Yield a split of a data set, or some images of it, at the champion's size."""
        nonlocal done
        for batch in split_batches(parents, of, split, config.batch_size):
            places = [k for k, name in enumerate(batch.ids) if wanted is None or name in wanted]
            if places:
                yield resized(batch.images[places], classifier.image_size_pixels)
            done += len(places)
            draft.progress(done, total, "images compared")

    known_values = np.concatenate([measure(images) for images in pictures(own, "train")])
    held = [classifier.probabilities(images) for images in pictures(own, "val")]
    measured, answers = [], []
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        for images in pictures(ingest, split, new):
            measured.append(measure(images))
            answers.append(classifier.probabilities(images))
    new_values = np.concatenate(measured)
    made = [
        compare_shares(
            "labels",
            _names(own, (row for row in known if row.split == "train")),
            _names(ingest, new.values()),
            config.min_cramers_v,
        )
    ]
    for k, name in enumerate(STATISTICS):
        made.append(compare_values(name, known_values[:, k], new_values[:, k], config.min_ks_distance))
    num_held = sum(map(len, held))
    if num_held < config.min_images:
        notes.append(f"The champion's val split has {num_held} images: its predictions were not compared.")
        return made
    before, now = np.concatenate(held), np.concatenate(answers)
    made.append(
        compare_shares(
            "predicted classes",
            [classifier.classes[k] for k in before.argmax(1)],
            [classifier.classes[k] for k in now.argmax(1)],
            config.min_cramers_v,
        )
    )
    made.append(
        compare_values(
            "top probability",
            before.max(1).astype(np.float64),
            now.max(1).astype(np.float64),
            config.min_ks_distance,
        )
    )
    return made


def _names(ingest: Manifest, rows: Iterable[Row]) -> list[str]:
    """Return the name of each row's class."""
    classes = IngestFacts.of(ingest).classes
    return [classes[row.label] for row in rows]
