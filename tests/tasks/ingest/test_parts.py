"""Ingest in parts: the same result as in one piece, and no picture decoded that a part in the store holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.pictures import inputs
from hemaflow.infra.errors import StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.ingest import stage
from hemaflow.tasks.ingest.config import IngestConfig
from hemaflow.tasks.ingest.findings import read_findings
from hemaflow.tasks.ingest.parts import images_per_chunk
from hemaflow.tasks.sources.images import Decoded, Unreadable
from hemaflow.tasks.sources.kinds.folders import FolderSource
from hemaflow.tasks.sources.registry import open_source

CHUNK, PER_CLASS = 5, 12
NUM_CHUNKS = 5
"""Of 24 pictures."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEMAFLOW_CHUNK_IMAGES", str(CHUNK))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that are decoded from now on."""
    names: list[str] = []
    decode = FolderSource.decode

    def noted(source: FolderSource, ref: str) -> Decoded:
        names.append(ref)
        return decode(source, ref)

    monkeypatch.setattr(FolderSource, "decode", noted)
    return names


def add(root: Path, name: str, *numbers: int) -> list[str]:
    """Add pictures of one colour each, which are no near duplicates; return their names."""
    (root / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        image = Image.new("RGB", (16, 16), (200, 30, 30) if name == "red" else (30, 30, 200))
        image.paste((255, 255, 255), (number % 8, number // 8, number % 8 + 6, number // 8 + 9))
        image.save(root / name / f"{number:02d}.png")
    return [f"{name}/{number:02d}.png" for number in numbers]


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    root = tmp_path / "cells"
    add(root, "red", *range(PER_CLASS))
    add(root, "blue", *range(PER_CLASS))
    return root


class Ingest:
    """One ingest into a store, step by step."""

    def __init__(self, store: LocalStore, data: Path, **config: Any) -> None:
        with open_source(str(data), Settings()) as source:
            digest = source.content_digest()
        key = inputs("ingest", **config).model_copy(update={"parents": {"source": digest}})
        self.parents, self.draft = Parents(store, {}, str(data)), Draft(store, key)
        self.config = IngestConfig(image_size_pixels=16, near_duplicate_bits=0, **config).resolved(store)

    def plan(self) -> list[Any]:
        return stage.plan(self.parents, self.config, self.draft)

    def write(self, chunk: Any) -> Any:
        return stage.write(self.parents, self.config, self.draft, chunk)

    def finish(self, *parts: Any) -> Manifest:
        return stage.finish(self.parents, self.config, self.draft, parts)

    def run(self) -> Manifest:
        return stage.run(self.parents, self.config, self.draft)


def test_chunks_in_any_order_give_the_result_of_one_piece(
    store: LocalStore, cells: Path, tmp_path: Path, decoded: list[str]
) -> None:
    ingest = Ingest(store, cells)
    chunks = ingest.plan()
    assert [len(chunk.refs) for chunk in chunks] == [5, 5, 5, 5, 4]
    parts = [ingest.write(chunk) for chunk in reversed(chunks)]
    assert len(decoded) == 2 * PER_CLASS
    manifest = ingest.finish(*parts)
    assert len(decoded) == 2 * PER_CLASS
    whole = Ingest(LocalStore(tmp_path / "other"), cells).run()
    assert manifest.model_dump() == whole.model_dump()


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_the_reference_set_is_in_parts_too(store: LocalStore, cells: Path, tmp_path: Path, form: str) -> None:
    reference = tmp_path / "reference"
    add(reference, "red", *range(8, 20))
    add(reference, "blue", *range(8, 20))
    for folder in (cells, reference) if form == "zip" else ():
        shutil.make_archive(str(folder), "zip", folder)
    ending = ".zip" if form == "zip" else ""
    data, config = tmp_path / f"cells{ending}", {"reference": str(tmp_path / f"reference{ending}")}
    ingest = Ingest(store, data, **config)
    chunks = ingest.plan()
    assert [chunk.of_reference for chunk in chunks] == [True] * NUM_CHUNKS + [False] * NUM_CHUNKS
    manifest = ingest.finish(*(ingest.write(chunk) for chunk in chunks))
    whole = Ingest(LocalStore(tmp_path / "other"), data, **config).run()
    assert manifest.digest == whole.digest
    assert manifest.facts["num_examples"]["test"] == 24


def test_an_ingest_that_was_killed_examines_only_what_is_missing(
    store: LocalStore, cells: Path, tmp_path: Path, decoded: list[str]
) -> None:
    killed = Ingest(store, cells)
    for chunk in killed.plan()[1:3]:
        killed.write(chunk)
    del decoded[:]
    again = Ingest(store, cells)
    chunks = again.plan()
    assert len(chunks) == NUM_CHUNKS
    parts = [again.write(chunk) for chunk in chunks]
    assert sorted(decoded) == sorted(ref for k in (0, 3, 4) for ref in chunks[k].refs)
    assert again.finish(*parts).digest == Ingest(LocalStore(tmp_path / "other"), cells).run().digest


def test_pictures_of_an_earlier_ingest_are_not_decoded_again(
    store: LocalStore, cells: Path, tmp_path: Path, decoded: list[str]
) -> None:
    Ingest(store, cells).run()
    del decoded[:]
    assert Ingest(store, cells, seed=1).plan() == []
    Ingest(store, cells, seed=1).run()
    assert decoded == []
    (cells / "red" / "03.png").rename(cells / "red" / "moved.png")
    (cells / "blue" / "04.png").unlink()
    added = add(cells, "red", 20, 21)
    manifest = Ingest(store, cells).run()
    assert sorted(decoded) == added
    assert manifest.digest == Ingest(LocalStore(tmp_path / "other"), cells).run().digest
    del decoded[:]
    Ingest(store, cells, fit="pad").run()
    assert len(decoded) == 2 * PER_CLASS + 1


def test_files_of_one_content_are_decoded_once(store: LocalStore, cells: Path, decoded: list[str]) -> None:
    for number in range(3):
        (cells / "red" / f"copy{number}.png").write_bytes((cells / "red" / "05.png").read_bytes())
    manifest = Ingest(store, cells).run()
    assert len(decoded) == 2 * PER_CLASS
    [found] = [f for f in read_findings(store, manifest) if f.kind == "exact-duplicate"]
    assert found.items == ["red/copy0.png", "red/copy1.png", "red/copy2.png"]


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_a_damaged_part_is_examined_again(
    store: LocalStore, cells: Path, decoded: list[str], harm: Callable[[Path], object]
) -> None:
    first = Ingest(store, cells).run()
    del decoded[:]
    harm(next(iter(sorted(store.root.glob("parts/ingest/*/*/*.npz")))))
    again = Ingest(store, cells, val_share=0.15, contaminant_copies=21).run()
    assert len(decoded) in (CHUNK - 1, CHUNK)
    assert [o.sha256 for o in again.objects] == [o.sha256 for o in first.objects]


def test_a_picture_that_could_not_be_read_once_is_tried_again(
    store: LocalStore, cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = FolderSource.decode

    def fails(source: FolderSource, ref: str) -> Decoded:
        if ref == "red/07.png":
            raise Unreadable("Input/output error")
        return decode(source, ref)

    with monkeypatch.context() as patched:
        patched.setattr(FolderSource, "decode", fails)
        manifest = Ingest(store, cells).run()
    assert ["red/07.png"] in [f.items for f in read_findings(store, manifest) if f.kind == "unreadable"]
    again = Ingest(store, cells, seed=1).run()
    assert "unreadable" not in [finding.kind for finding in read_findings(store, again)]


def test_what_was_read_while_the_source_changed_is_used_by_no_other_ingest(
    store: LocalStore, cells: Path, decoded: list[str]
) -> None:
    ingest = Ingest(store, cells)
    chunks = ingest.plan()
    (cells / "red" / "00.png").write_bytes((cells / "red" / "01.png").read_bytes())
    with pytest.raises(StageError, match="The data changed while it was read"):
        ingest.finish(*(ingest.write(chunk) for chunk in chunks))
    del decoded[:]
    Ingest(store, cells, seed=1).run()
    assert len(decoded) == 2 * PER_CLASS - 1


def test_a_machine_with_other_data_leaves_its_chunks_to_finish(
    store: LocalStore, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEMAFLOW_CLUSTER", "tcp://10.0.0.1:8786")
    ingest = Ingest(store, cells)
    chunks = ingest.plan()
    assert {chunk.source_sha256 for chunk in chunks} == {ingest.draft.inputs.parents["source"]}
    first = ingest.write(chunks[0])
    assert first.num_records == CHUNK
    add(tmp_path / "other", "red", 1)
    assert Ingest(store, tmp_path / "other").write(chunks[1]) is None
    shutil.rmtree(tmp_path / "other")
    assert Ingest(store, cells, seed=1).plan() != []
    absent = Ingest(store, cells, seed=2)
    absent.parents = Parents(store, {}, str(tmp_path / "other"))
    assert absent.write(chunks[1]) is None
    assert ingest.finish(first).digest == Ingest(LocalStore(tmp_path / "whole"), cells).run().digest


def test_large_images_make_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEMAFLOW_CHUNK_IMAGES")
    assert [images_per_chunk(size) for size in (32, 96, 224, 1024)] == [1024, 1024, 445, 21]
