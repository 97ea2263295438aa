"""The shard plan."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hemaflow.tasks.augment.shard_plan import Shard, Span, plan_shards, spans


def test_names_tell_place_and_total() -> None:
    assert [shard.name for shard in plan_shards(5, 10, 20)] == [
        "train-00000-of-00003.tfrecord",
        "train-00001-of-00003.tfrecord",
        "train-00002-of-00003.tfrecord",
    ]


def test_plan_literally() -> None:
    assert plan_shards(7, 10, 35) == [Shard(0, 3, 0, 2), Shard(1, 3, 2, 2), Shard(2, 3, 4, 3)]


def test_nothing_to_plan() -> None:
    assert plan_shards(0, 10, 20) == []


def test_image_larger_than_a_shard_gets_its_own() -> None:
    assert [shard.num_images for shard in plan_shards(3, 100, 20)] == [1, 1, 1]


@given(st.integers(1, 5000), st.integers(1, 10_000), st.integers(1, 200_000))
def test_every_row_is_in_exactly_one_shard_of_the_right_size(
    num_images: int, image_bytes: int, shard_bytes: int
) -> None:
    shards = plan_shards(num_images, image_bytes, shard_bytes)
    rows = [row for shard in shards for row in range(shard.first, shard.first + shard.num_images)]
    assert rows == list(range(num_images))
    sizes = [shard.num_images for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == 1 or max(sizes) * image_bytes <= shard_bytes
    # One shard fewer would not do: the shards are as large as they may be.
    most = max(1, shard_bytes // image_bytes)
    assert (len(shards) - 1) * most < num_images


def test_spans_cross_files() -> None:
    assert spans([3, 0, 4, 5], 2, 6) == [Span(0, 2, 1), Span(2, 0, 4), Span(3, 0, 1)]


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(0, 60), st.integers(0, 60))
def test_spans_name_the_records_asked_for(sizes: list[int], first: int, num: int) -> None:
    records = [(file, place) for file, size in enumerate(sizes) for place in range(size)]
    found = [
        (span.file, place)
        for span in spans(sizes, first, num)
        for place in range(span.skip, span.skip + span.take)
    ]
    assert found == records[first : first + num]
