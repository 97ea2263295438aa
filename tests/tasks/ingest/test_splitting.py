from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hemaflow.tasks.ingest.splitting import split_fold, split_groups

PICTURES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=120)


@given(PICTURES, st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 5))
def test_a_group_is_never_divided(
    pictures: list[tuple[int, int]], val_share: float, test_share: float, seed: int
) -> None:
    labels, groups = [label for label, _ in pictures], [group for _, group in pictures]
    splits = split_groups(labels, groups, val_share=val_share, test_share=test_share, seed=seed)
    assert len(splits) == len(pictures)
    for group in set(groups):
        assert len({split for split, own in zip(splits, groups, strict=True) if own == group}) == 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.floats(0, 0.4), st.floats(0, 0.4))
def test_every_class_is_split_by_the_shares(labels: list[int], val_share: float, test_share: float) -> None:
    splits = split_groups(labels, range(len(labels)), val_share=val_share, test_share=test_share, seed=0)
    for label, total in Counter(labels).items():
        counts = Counter(split for split, own in zip(splits, labels, strict=True) if own == label)
        assert abs(counts["val"] - val_share * total) <= 1
        assert abs(counts["test"] - test_share * total) <= 1


def test_the_seed_shuffles_and_nothing_else_does() -> None:
    labels, groups = [0, 1] * 50, range(100)

    def split(seed: int) -> list[str]:
        return list(split_groups(labels, groups, val_share=0.2, test_share=0.2, seed=seed))

    assert split(1) == split(1)
    assert split(1) != split(2)


def test_the_split_of_a_seed_stays_what_it_is() -> None:
    labels, groups = [k % 3 for k in range(24)], [k // 2 for k in range(24)]
    splits = split_groups(labels, groups, val_share=0.25, test_share=0.25, seed=1)
    assert "".join(split[1] for split in splits) == "rraaeeeeeeaaaarrrrrrrrrr"  # tRain, vAl, tEst


@given(PICTURES, st.integers(2, 7), st.floats(0, 0.4), st.integers(0, 5))
def test_every_picture_is_tested_once_and_no_group_is_divided(
    pictures: list[tuple[int, int]], num_folds: int, val_share: float, seed: int
) -> None:
    labels, groups = [label for label, _ in pictures], [group for _, group in pictures]
    tested = Counter[int]()
    for fold in range(num_folds):
        splits = split_fold(labels, groups, num_folds=num_folds, fold=fold, val_share=val_share, seed=seed)
        tested.update(place for place, split in enumerate(splits) if split == "test")
        for group in set(groups):
            assert len({split for split, own in zip(splits, groups, strict=True) if own == group}) == 1
    assert tested == Counter(range(len(pictures)))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.integers(2, 7), st.floats(0, 0.4))
def test_every_class_is_in_every_fold_by_its_share(
    labels: list[int], num_folds: int, val_share: float
) -> None:
    for fold in range(num_folds):
        splits = split_fold(
            labels, range(len(labels)), num_folds=num_folds, fold=fold, val_share=val_share, seed=0
        )
        for label, total in Counter(labels).items():
            counts = Counter(split for split, own in zip(splits, labels, strict=True) if own == label)
            assert abs(counts["test"] - total / num_folds) < 1
            # Val is a share of all: what the fold has too many or too few, the rest lacks or has.
            assert abs(counts["val"] - val_share * total) <= 2


def test_the_folds_are_shuffled_by_the_seed() -> None:
    labels, groups = [0, 1] * 50, range(100)

    def split(seed: int) -> list[str]:
        return list(split_fold(labels, groups, num_folds=5, fold=0, val_share=0.2, seed=seed))

    assert split(1) == split(1)
    assert split(1) != split(2)
