from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from hemaflow.infra.errors import ConfigError, DataError, StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.facts import SPLITS
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.ingest import reference_set, stage
from hemaflow.tasks.ingest.cleaning import perceptual_hash
from hemaflow.tasks.ingest.config import IngestConfig
from hemaflow.tasks.ingest.findings import read_findings, read_pictures
from hemaflow.tasks.ingest.fitted import FittedPictures
from hemaflow.tasks.ingest.stage import run
from hemaflow.tasks.records.index import Index, write_index
from hemaflow.tasks.records.schema import read_shards
from hemaflow.tasks.sources.images import Decoded, fit
from hemaflow.tasks.sources.kinds.folders import FolderSource
from hemaflow.tasks.sources.registry import open_source
from hemaflow.tasks.sources.sample_cells import draw_cell

from helpers.pictures import inputs  # isort: skip

GOLDEN_DIGEST = "2d92cc26a72aa8f008e26d74430214138ad2ab5dbb9e8ee1785154aa71b8755d"


def ingest(store: LocalStore, data: Path | str, **config: Any) -> Manifest:
    return run(
        Parents(store, {}, str(data)),
        IngestConfig(**config).resolved(store),
        Draft(store, inputs("ingest", **config)),
    )


def findings(store: LocalStore, manifest: Manifest) -> list[dict[str, Any]]:
    return [finding._asdict() for finding in read_findings(store, manifest)]


def index(store: LocalStore, manifest: Manifest) -> list[dict[str, str]]:
    table = write_index(Index.of(store, manifest).rows()).decode()
    return list(csv.DictReader(io.StringIO(table)))


def cells(root: Path, per_class: int = 12, side: int = 40) -> Path:
    """Two classes of drawn cells as PNG files that differ."""
    for label, name in enumerate(("basophil", "platelet")):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            image = Image.fromarray(draw_cell(7 * label, number))
            image.resize((side, side)).save(root / name / f"{number:02d}.png")
    return root


def test_the_records_are_those_of_the_index(store: LocalStore, tmp_path: Path) -> None:
    root = cells(tmp_path / "cells")
    manifest = ingest(store, root, image_size_pixels=32, val_share=0.25, test_share=0.25, shard_bytes=10_000)
    rows = index(store, manifest)
    assert manifest.facts["classes"] == ["basophil", "platelet"]
    assert manifest.facts["num_examples"] == {"train": 12, "val": 6, "test": 6}
    assert manifest.facts["class_counts"] == {"train": [6, 6], "val": [3, 3], "test": [3, 3]}
    for split in SPLITS:
        shards = [manifest.path(store, o.name) for o in manifest.matching(f"{split}-")]
        assert len(shards) > 1
        written = [
            (record.id, int(record.label.argmax()), record.image) for record in read_shards(shards, 32)
        ]
        of_split = [row for row in rows if row["split"] == split]
        assert [(row["id"], int(row["label"])) for row in of_split] == [record[:2] for record in written]
        for row, (_, _, image) in zip(of_split, written, strict=True):
            source = Image.open(root / row["source"]).resize((32, 32), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(image, np.asarray(source))


def test_the_same_content_gives_the_same_bytes_and_another_seed_others(
    store: LocalStore, tmp_path: Path
) -> None:
    root = cells(tmp_path / "cells")
    first = ingest(store, root)
    again = ingest(LocalStore(tmp_path / "other"), root)
    assert first.digest == again.digest
    assert ingest(store, root, seed=1).digest != first.digest


def test_every_image_is_kept_or_found(store: LocalStore, tmp_path: Path) -> None:
    root = cells(tmp_path / "cells")
    (root / "basophil" / "text.jpg").write_text("no picture")
    (root / "basophil" / "cut.png").write_bytes((root / "basophil" / "00.png").read_bytes()[:300])
    (root / "basophil" / "copy.png").write_bytes((root / "basophil" / "00.png").read_bytes())
    (root / "platelet" / "other.png").write_bytes((root / "basophil" / "01.png").read_bytes())
    (root / "none").mkdir()
    manifest = ingest(store, root)
    kinds = {finding["kind"]: finding["items"] for finding in findings(store, manifest)}
    assert kinds == {
        "conflicting-label": ["basophil/01.png", "platelet/other.png"],
        "empty-class": ["none"],
        "exact-duplicate": ["basophil/copy.png"],
        "unreadable": ["basophil/text.jpg"],
    } or set(kinds) == {"conflicting-label", "empty-class", "exact-duplicate", "unreadable"}
    listed = {item for finding in findings(store, manifest) for item in finding["items"]}
    kept = {row["source"] for row in index(store, manifest)}
    files = {path.relative_to(root).as_posix() for path in root.rglob("*.*")}
    assert kept | listed - {"none"} == files
    assert not kept & listed
    assert {"basophil/text.jpg", "basophil/cut.png"} <= listed


@pytest.mark.parametrize(
    "spoil", ["every file is text", "one class is all copies of the other", "a class of one picture repeated"]
)
def test_a_source_of_which_nothing_is_left_is_refused_and_nothing_is_committed(
    store: LocalStore, tmp_path: Path, spoil: str
) -> None:
    root = cells(tmp_path / "cells", per_class=25)
    for path in sorted((root / "platelet").iterdir()):
        if spoil == "every file is text":
            path.write_text("no picture")
        elif spoil == "one class is all copies of the other":
            path.write_bytes((root / "basophil" / path.name).read_bytes())
        else:
            path.write_bytes((root / "platelet" / "00.png").read_bytes())
    with pytest.raises(DataError, match=r"nothing left to tell apart(.|\n)*Look at the first"):
        ingest(store, root)
    assert [name for name in store.list("") if name.endswith("manifest.json")] == []


def test_data_that_changes_while_it_is_read_is_not_kept_under_the_key_of_what_it_was(
    store: LocalStore, tmp_path: Path
) -> None:
    root = cells(tmp_path / "cells")
    with open_source(str(root), Settings()) as source:
        key_inputs = inputs("ingest").model_copy(update={"parents": {"source": source.content_digest()}})

    def copy_one_more(done: int, total: int, text: str) -> None:
        shutil.copy(root / "platelet" / "00.png", root / "basophil" / "new.png")

    with pytest.raises(StageError, match="changed while it was read"):
        run(
            Parents(store, {}, str(root)),
            IngestConfig().resolved(store),
            Draft(store, key_inputs, copy_one_more),
        )
    assert not [name for name in store.list("") if name.endswith("manifest.json")]
    (root / "basophil" / "new.png").unlink()
    run(Parents(store, {}, str(root)), IngestConfig().resolved(store), Draft(store, key_inputs))
    assert [name for name in store.list("") if name.endswith("manifest.json")]


@pytest.mark.slow
def test_a_full_disk_ends_in_an_error_and_no_manifest(tmp_path: Path) -> None:
    """A process whose files may not grow: the kernel refuses the write as a full disk would."""
    root = cells(tmp_path / "cells")
    code = (
        "import resource, signal, sys; sys.path[:0] = sys.argv[1:3]\n"
        "import tensorflow\n"
        "from test_ingest import ingest, LocalStore; from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "ingest(LocalStore(Path(sys.argv[3])), sys.argv[4], image_size_pixels=96)"
    )
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), str(tmp_path / "store"), str(root)]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "StoreFull" in done.stderr
    assert "Free some space" in done.stderr
    assert [name for name in LocalStore(tmp_path / "store").list("") if "manifest" in name] == []


UNCOMPRESSED = """
import runpy, sys
import numpy as np
np.savez_compressed = np.savez
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script that writes an .npz, but spares the time that its compression takes."""


@pytest.mark.slow
def test_the_competition_file_is_cleaned(store: LocalStore, tmp_path: Path, shared_dir: Path) -> None:
    """All 1,800 contaminants, every exact duplicate, and the conflicting pair of the real cells."""
    path, script = tmp_path / "training_set.npz", shared_dir / "data" / "make_training_set.py"
    subprocess.run([sys.executable, "-c", UNCOMPRESSED, script, path], check=True)
    with np.load(path) as arrays:
        rows = [image.tobytes() for image in arrays["images"]]
        labels = arrays["labels"].reshape(-1)
    manifest = ingest(store, path)
    copies: dict[bytes, list[int]] = {}
    for row, pixels in enumerate(rows):
        copies.setdefault(pixels, []).append(row)
    found = findings(store, manifest)
    by_kind: dict[str, list[list[str]]] = {}
    for finding in found:
        by_kind.setdefault(finding["kind"], []).append(finding["items"])
    assert sorted(len(items) for items in by_kind["contaminant"]) == [200, 1600]
    pairs = [same for same in copies.values() if len(same) == 2]
    assert len(pairs) == 17
    conflicting = [same for same in pairs if len(set(labels[same])) > 1]
    assert by_kind["conflicting-label"] == [[f"row {row}" for row in same] for same in conflicting]
    assert len(conflicting) == 1
    dropped = {item for items in by_kind["exact-duplicate"] for item in items}
    assert len(dropped) == 16
    assert dropped <= {f"row {row}" for same in pairs for row in same}
    assert sum(manifest.facts["num_examples"].values()) == 13_759 - 1_800 - 16 - 2
    shares = Counter({split: n / 11_941 for split, n in manifest.facts["num_examples"].items()})
    assert shares["val"] == pytest.approx(0.15, abs=0.001)
    assert shares["test"] == pytest.approx(0.15, abs=0.001)


@pytest.mark.slow
def test_the_conflicting_pair_is_named(store: LocalStore, shared_dir: Path) -> None:
    manifest = ingest(store, shared_dir / "data" / "pbc96_train.zip")
    assert manifest.facts["num_findings"]["conflicting-label"] == 2
    assert manifest.facts["num_findings"]["exact-duplicate"] == 16
    pair = next(f for f in findings(store, manifest) if f["kind"] == "conflicting-label")
    assert {Path(item).stem for item in pair["items"]} == {"EO_225902", "BNE_191112"}
    assert "EO_225902.jpg as eosinophil" in pair["reason"]
    # One cell that was photographed twice, a little shifted.
    near = [finding["items"] for finding in findings(store, manifest) if finding["kind"] == "near-duplicate"]
    assert [{Path(item).stem for item in items} for items in near] == [{"MO_231316", "MO_415531"}]
    split = {row["source"]: row["split"] for row in index(store, manifest)}
    assert len({split[item] for item in near[0]}) == 1


def coloured(root: Path, *names: str, classes: tuple[str, str] = ("blue", "red")) -> Path:
    """Two classes of pictures that are nothing like each other: a picture follows from its name alone."""
    for name in names:
        for label, class_name in enumerate(classes):
            rng = np.random.default_rng([*name.encode(), label])
            pixels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8)
            (root / class_name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / class_name / f"{name}.png")
    return root


def numbered(first: int, last: int) -> list[str]:
    return [f"{number:02d}" for number in range(first, last)]


def pixels_of(store: LocalStore, manifest: Manifest, split: str) -> set[tuple[str, bytes]]:
    """The pictures of a split as a set of (class, pixels)."""
    classes: list[str] = manifest.facts["classes"]
    size = manifest.facts["image_size_pixels"]
    shards = [manifest.path(store, o.name) for o in manifest.matching(f"{split}-")]
    return {
        (classes[int(record.label.argmax())], record.image.tobytes()) for record in read_shards(shards, size)
    }


def files(root: Path, size: int) -> set[tuple[str, bytes]]:
    """The pictures of a folder as ingest sees them."""
    return {
        (path.parent.name, fit(np.asarray(Image.open(path)), size, "crop").tobytes())
        for path in root.rglob("*.png")
    }


def by_kind(store: LocalStore, manifest: Manifest) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for finding in findings(store, manifest):
        found.setdefault(finding["kind"], set()).update(finding["items"])
    return found


def referred(store: LocalStore, data: Path, reference: str, **config: Any) -> Manifest:
    resolved = IngestConfig(reference=reference, **config).resolved(store)
    key = inputs("ingest", data=str(data), **resolved.key_document())
    return run(Parents(store, {}, str(data)), resolved, Draft(store, key))


def test_without_a_reference_the_bytes_are_what_they_were(store: LocalStore, tmp_path: Path) -> None:
    """Neither drawing nor resizing is in these pictures: the digest is that of ingest alone."""
    manifest = ingest(store, coloured(tmp_path / "cells", *numbered(0, 20)), image_size_pixels=32)
    assert manifest.digest == GOLDEN_DIGEST


def test_the_test_split_is_the_reference_whatever_arrives(store: LocalStore, tmp_path: Path) -> None:
    reference = coloured(tmp_path / "reference", *numbered(0, 10))
    few, many = coloured(tmp_path / "few", *numbered(10, 20)), coloured(tmp_path / "many", *numbered(5, 60))
    first, second = (referred(store, data, str(reference), image_size_pixels=32) for data in (few, many))
    for manifest in (first, second):
        assert pixels_of(store, manifest, "test") == files(reference, 32)
        assert manifest.facts["num_examples"]["test"] == 20
    assert [o.sha256 for o in first.matching("test-")] == [o.sha256 for o in second.matching("test-")]
    assert by_kind(store, first) == {}
    known = {f"{name}/{number}.png" for name in ("blue", "red") for number in numbered(5, 10)}
    assert by_kind(store, second) == {"reference-duplicate": known}
    assert second.facts["num_examples"] == {"train": 84, "val": 16, "test": 20}  # 100 are left
    learnt = pixels_of(store, second, "train") | pixels_of(store, second, "val")
    assert learnt == files(many, 32) - files(reference, 32)
    assert len({row["id"] for row in index(store, second)}) == 120


def test_near_duplicates_of_the_reference_are_never_learnt_from(store: LocalStore, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    data = cells(tmp_path / "data", per_class=10, side=96)
    for name in ("basophil", "platelet"):
        (reference / name).mkdir(parents=True)
        for number in range(4):
            saved = Image.open(data / name / f"{number:02d}.png")
            saved.save(reference / name / f"again{number}.jpg", quality=60)
    manifest = referred(store, data, str(reference))
    near = {f"{name}/{number:02d}.png" for name in ("basophil", "platelet") for number in range(4)}
    assert by_kind(store, manifest) == {"reference-duplicate": near}
    assert "again" in findings(store, manifest)[0]["reason"]
    hashes = {
        split: np.array(
            [
                perceptual_hash(np.frombuffer(pixels, np.uint8).reshape(96, 96, 3))
                for _, pixels in pixels_of(store, manifest, split)
            ]
        )
        for split in SPLITS
    }
    for split in ("train", "val"):
        distance = np.bitwise_count(hashes["test"][:, None] ^ hashes[split][None]).sum(-1)
        assert distance.min() > IngestConfig().near_duplicate_bits


def test_a_conflict_with_the_reference_drops_the_picture_of_the_source(
    store: LocalStore, tmp_path: Path
) -> None:
    reference = coloured(tmp_path / "reference", *numbered(0, 6))
    data = coloured(tmp_path / "data", *numbered(10, 30))
    (data / "red" / "wrong.png").write_bytes((reference / "blue" / "03.png").read_bytes())
    manifest = referred(store, data, str(reference), image_size_pixels=32)
    assert pixels_of(store, manifest, "test") == files(reference, 32)
    assert by_kind(store, manifest) == {"reference-duplicate": {"red/wrong.png"}}
    reason = findings(store, manifest)[0]["reason"]
    assert reason == "the same pixels as reference://blue/03.png, which is blue and not red"


def test_the_reference_itself_is_cleaned_by_the_same_rules(store: LocalStore, tmp_path: Path) -> None:
    reference = coloured(tmp_path / "reference", *numbered(0, 6))
    (reference / "blue" / "copy.png").write_bytes((reference / "blue" / "00.png").read_bytes())
    (reference / "red" / "both.png").write_bytes((reference / "blue" / "01.png").read_bytes())
    (reference / "red" / "text.png").write_text("no picture")
    data = coloured(tmp_path / "data", *numbered(1, 30))
    manifest = referred(store, data, str(reference), image_size_pixels=32)
    assert manifest.facts["num_examples"]["test"] == 11
    found = by_kind(store, manifest)
    assert found["conflicting-label"] == {"reference://blue/01.png", "reference://red/both.png"}
    assert found["unreadable"] == {"reference://red/text.png"}
    # What is doubtful in the reference is not learnt from either.
    assert "blue/01.png" in found["reference-duplicate"]


def test_classes_are_those_of_both(store: LocalStore, tmp_path: Path) -> None:
    reference = coloured(tmp_path / "reference", *numbered(0, 4), classes=("amber", "red"))
    data = coloured(tmp_path / "data", *numbered(10, 30))
    manifest = referred(store, data, str(reference), image_size_pixels=32)
    assert manifest.facts["classes"] == ["amber", "blue", "red"]
    assert manifest.facts["class_counts"]["test"] == [4, 0, 4]
    assert manifest.facts["class_counts"]["train"][0] == 0


def test_a_test_split_of_the_source_is_held_out_as_val(store: LocalStore, tmp_path: Path) -> None:
    reference = coloured(tmp_path / "reference", *numbered(0, 4))
    coloured(tmp_path / "data" / "train", *numbered(10, 20))
    coloured(tmp_path / "data" / "test", *numbered(20, 25))
    manifest = referred(store, tmp_path / "data", str(reference), image_size_pixels=32)
    assert pixels_of(store, manifest, "train") == files(tmp_path / "data" / "train", 32)
    assert pixels_of(store, manifest, "val") == files(tmp_path / "data" / "test", 32)
    assert pixels_of(store, manifest, "test") == files(reference, 32)


def test_a_result_of_ingest_is_a_reference(store: LocalStore, tmp_path: Path) -> None:
    first = ingest(
        store, coloured(tmp_path / "old", *numbered(0, 30)), image_size_pixels=32, shard_bytes=9000
    )
    assert len(first.matching("test-")) > 1
    grown = coloured(tmp_path / "grown", *numbered(0, 50))
    second = referred(store, grown, f"ingest:{first.key}", image_size_pixels=32)
    assert pixels_of(store, second, "test") == pixels_of(store, first, "test")
    assert not pixels_of(store, second, "test") & pixels_of(store, second, "train")
    assert by_kind(store, second) == {
        "reference-duplicate": {row["source"] for row in index(store, first) if row["split"] == "test"}
    }
    # A reference of a reference is the same set under the same names.
    third = referred(store, grown, f"ingest:{second.key}", image_size_pixels=32)
    assert [o.sha256 for o in third.matching("test-")] == [o.sha256 for o in second.matching("test-")]
    smaller = referred(store, grown, f"ingest:{first.key}", image_size_pixels=16)
    images = (np.frombuffer(p, np.uint8).reshape(32, 32, 3) for _, p in pixels_of(store, first, "test"))
    assert {p for _, p in pixels_of(store, smaller, "test")} == {fit(i, 16, "crop").tobytes() for i in images}


def test_the_content_of_a_reference_enters_the_key_and_its_path_does_not(
    tmp_path: Path, store: LocalStore
) -> None:
    one, other = (coloured(tmp_path / name / "cells", "00", "01") for name in ("one", "other"))
    same = IngestConfig(reference=str(one)).resolved(store).key_document()
    assert IngestConfig(reference=str(other)).resolved(store).key_document() == same
    assert str(tmp_path) not in json.dumps(same)
    coloured(other, "02")
    assert IngestConfig(reference=str(other)).resolved(store).key_document() != same
    assert "reference_sha256" not in IngestConfig().resolved(store).key_document()


def test_what_is_looked_up_of_a_reference_is_no_field_to_set() -> None:
    assert "reference_sha256" not in IngestConfig.model_fields
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        IngestConfig.model_validate({"reference_sha256": "0" * 64})


@pytest.mark.parametrize("reference", ["ingest:", "ingest:0123", "ingest:" + "x" * 64])
def test_half_a_key_is_no_reference(reference: str) -> None:
    with pytest.raises(ValueError, match="the whole key of a result"):
        IngestConfig(reference=reference)


def test_a_reference_that_is_not_there_is_a_mistake(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"reference set cannot be used(.|\n)*ingest.reference=no/such"):
        IngestConfig(reference="no/such").resolved(store)
    with pytest.raises(DataError, match="There is no such reference set in this store"):
        referred(store, coloured(tmp_path / "data", "00", "01"), f"ingest:{'0' * 64}")


# Each picture once


class Counted(FolderSource):
    """A folder that counts what is decoded."""

    decoded: ClassVar[Counter[str]] = Counter()

    def decode(self, ref: str) -> Decoded:
        self.decoded[ref] += 1
        return super().decode(ref)


def test_each_picture_is_decoded_once(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = coloured(tmp_path / "data", *numbered(0, 30))
    (data / "red" / "text.png").write_text("no picture")
    reference = coloured(tmp_path / "reference", *numbered(25, 35))
    monkeypatch.setattr(Counted, "decoded", Counter[str]())
    monkeypatch.setattr(stage, "open_source", lambda data, settings: Counted(Path(data)))
    monkeypatch.setattr(reference_set, "open_source", lambda data, settings: Counted(Path(data)))
    manifest = referred(store, data, str(reference), image_size_pixels=32)
    assert manifest.facts["num_examples"] == {"train": 42, "val": 8, "test": 20}
    assert pixels_of(store, manifest, "test") == files(reference, 32)
    both = {f"{name}/{number}.png" for name in ("blue", "red") for number in numbered(25, 30)}
    assert Counted.decoded.keys() >= both
    assert {ref: n for ref, n in Counted.decoded.items() if n != (2 if ref in both else 1)} == {}


def test_the_scratch_file_gives_pictures_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = {f"{k}": rng.integers(0, 256, (5, 5, 3), np.uint8) for k in range(9)}
    with FittedPictures(tmp_path / "pictures", 5) as fitted:
        for ref, pixels in pictures.items():
            fitted.add(ref, pixels)
            np.testing.assert_array_equal(fitted[ref], pixels)
        for ref, pixels in reversed(pictures.items()):
            np.testing.assert_array_equal(fitted[ref], pixels)
        with pytest.raises(KeyError):
            fitted["9"]
        with pytest.raises(
            ValueError, match=r"Expected a picture of shape \(5, 5, 3\). Received: \(4, 5, 3\)"
        ):
            fitted.add("9", pictures["0"][1:])
    assert (tmp_path / "pictures").stat().st_size == 9 * 5 * 5 * 3


# Odd names


def test_odd_names_are_read_back_byte_for_byte(store: LocalStore, tmp_path: Path) -> None:
    folders = ["a\rb", "a\nb", "=1+1", "<img src=x>", "[bold]x", "\x1b[31mred", 'x"y', "x,y", "y" * 200]
    names, path = [], tmp_path / "cells.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, folder in enumerate(folders):
            for k in range(4):
                file = io.BytesIO()
                rng = np.random.default_rng([number, k])
                Image.fromarray(
                    np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8)
                ).save(file, "PNG")
                names.append(f"{folder}/{k}\r.png")
                archive.writestr(names[-1], file.getvalue())
    manifest = ingest(store, path, image_size_pixels=32)
    assert manifest.facts["classes"] == sorted(folders)
    rows = Index.of(store, manifest).rows()
    assert sorted(row.id for row in rows) == sorted(names)
    written = [
        record.id
        for split in SPLITS
        for record in read_shards((manifest.path(store, o.name) for o in manifest.matching(f"{split}-")), 32)
    ]
    assert [row.id for row in rows] == written


# Findings of what is unusual


def test_unusual_pictures_are_kept_and_listed_together(store: LocalStore, tmp_path: Path) -> None:
    root = cells(tmp_path / "cells")
    rng = np.random.default_rng(0)
    for number, level in enumerate((20, 130)):
        Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(root / "basophil" / f"plain{number}.png")
        noise = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(root / "platelet" / f"noise{number}.png")
        grey = np.asarray(Image.open(root / "basophil" / f"0{number}.png").convert("L"))
        deep = grey.astype(np.uint16) * 15
        Image.fromarray(deep).save(root / "basophil" / f"deep{number}.png")
    manifest = ingest(store, root)
    kinds = {f["kind"]: f["items"] for f in findings(store, manifest) if f["kind"] != "near-duplicate"}
    assert kinds == {
        "noise-picture": ["platelet/noise0.png", "platelet/noise1.png"],
        "plain-picture": ["basophil/plain0.png", "basophil/plain1.png"],
        "shallow-bits": ["basophil/deep0.png", "basophil/deep1.png"],
    }
    kept = {row["source"] for row in index(store, manifest)}
    assert {item for items in kinds.values() for item in items} <= kept
    shown = read_pictures(store, manifest)
    assert {kind: sorted(pictures) for kind, pictures in shown.items() if kind != "near-duplicate"} == kinds
    assert {finding.kind for finding in read_findings(store, manifest)} == set(shown)
    pixels = fit(np.asarray(Image.open(root / "platelet" / "noise1.png")), 96, "crop")
    np.testing.assert_array_equal(shown["noise-picture"]["platelet/noise1.png"], pixels)


def test_a_few_pictures_of_each_kind_of_finding_are_kept(store: LocalStore, tmp_path: Path) -> None:
    root = cells(tmp_path / "cells", per_class=16)
    for number in range(12):
        for copy in range(2):
            again = root / "basophil" / f"{number:02d} {copy}.png"
            again.write_bytes((root / "basophil" / f"{number:02d}.png").read_bytes())
    (root / "platelet" / "text.png").write_text("no picture")
    manifest = ingest(store, root)
    assert manifest.facts["num_findings"] == {"exact-duplicate": 24, "unreadable": 1}
    shown = {kind: list(pictures) for kind, pictures in read_pictures(store, manifest).items()}
    assert list(shown) == ["exact-duplicate"]
    assert shown["exact-duplicate"] == [f"basophil/{number:02d} 1.png" for number in range(8)]
    other = LocalStore(tmp_path / "other")
    clean = ingest(other, cells(tmp_path / "clean"))
    assert read_pictures(other, clean) == {}
    assert clean.matching("findings.tfrecord") == ()


def test_a_class_that_no_split_judges_or_trains_on_is_named(
    store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = cells(tmp_path / "cells")
    (root / "single").mkdir()
    Image.fromarray(draw_cell(3, 0)).save(root / "single" / "0.png")
    manifest = ingest(store, root)
    assert by_kind(store, manifest) == {"unjudged-class": {"single"}}
    assert "unjudged-class: 'single' kept: val and test have no image of it, train has 1" in caplog.text
    assert manifest.facts["num_findings"] == {"unjudged-class": 1}
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "c")):
        coloured(tmp_path / "given" / split, f"{split}{name}", classes=(name, name))
    manifest = ingest(store, tmp_path / "given", image_size_pixels=32)
    assert by_kind(store, manifest) == {"unjudged-class": {"b"}, "untrained-class": {"c"}}


def test_how_the_source_was_read_is_logged(
    store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split, first in (("Training", 0), ("Testing", 20)):
        coloured(tmp_path / "data" / split, *numbered(first, first + 10))
    (tmp_path / "data" / "Training" / "red" / "out.png").symlink_to("/dev/null")
    ingest(store, tmp_path / "data", image_size_pixels=32)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings[0].startswith(
        "link: 'Training/red/out.png' left out: a link out of the data; to follow it,"
    )
    assert warnings[1] == (
        "split-folders: 'Testing', 'Training' read as splits: Testing is test, Training is train; "
        "if they are classes, give them other names"
    )


# Folds


def test_over_the_folds_every_picture_is_tested_once(store: LocalStore, tmp_path: Path) -> None:
    root = coloured(tmp_path / "cells", *numbered(0, 12))
    # Nearly the same again: one group, which no fold divides.
    pixels = np.asarray(Image.open(root / "red" / "03.png")).copy()
    pixels[:2, :2] ^= 1
    Image.fromarray(pixels).save(root / "red" / "03 again.png")
    whole = ingest(store, root, image_size_pixels=32)
    folds = [
        ingest(store, root, image_size_pixels=32, num_folds=3, fold=fold, val_share=0.2) for fold in range(3)
    ]
    tested = [row["id"] for fold in folds for row in index(store, fold) if row["split"] == "test"]
    assert sorted(tested) == sorted(row["id"] for row in index(store, whole))
    for fold in folds:
        split = {row["id"]: row["split"] for row in index(store, fold)}
        assert len(split) == 25
        assert split["red/03.png"] == split["red/03 again.png"]
        assert min(fold.facts["class_counts"]["test"]) == 4
        assert min(fold.facts["class_counts"]["val"]) >= 2


def test_folds_are_made_anew_where_the_source_has_splits(store: LocalStore, tmp_path: Path) -> None:
    for split, first, last in (("train", 0, 12), ("val", 12, 15), ("test", 15, 18)):
        coloured(tmp_path / "data" / split, *numbered(first, last))
    manifest = ingest(store, tmp_path / "data", image_size_pixels=32, num_folds=3, fold=2)
    own = {row["source"].split("/")[0] for row in index(store, manifest) if row["split"] == "test"}
    assert manifest.facts["num_examples"]["test"] == 12
    assert len(own) > 1


def test_folds_of_the_source_are_used_and_asked_about(store: LocalStore, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(3):
        coloured(root / f"fold_{number + 1}", *numbered(6 * number, 6 * number + 6))
    pixels = np.asarray(Image.open(root / "fold_1" / "red" / "03.png")).copy()
    pixels[:2, :2] ^= 1  # nearly the same, in two folds
    Image.fromarray(pixels).save(root / "fold_2" / "red" / "again.png")
    with pytest.raises(
        ConfigError, match=r"divided into 3 folds(.|\n)*--set ingest.num_folds=3 --set ingest.fold=0"
    ):
        ingest(store, root, image_size_pixels=32)
    with pytest.raises(ConfigError, match=r"divided into 3 folds(.|\n)*Received: ingest.num_folds=5"):
        ingest(store, root, image_size_pixels=32, num_folds=5)
    for fold in range(3):
        manifest = ingest(store, root, image_size_pixels=32, num_folds=3, fold=fold, val_share=0.2)
        rows = index(store, manifest)
        assert manifest.facts["classes"] == ["blue", "red"]
        tested = {row["source"] for row in rows if row["split"] == "test"}
        assert tested == {row["source"] for row in rows if row["source"].startswith(f"fold_{fold + 1}/")}
        assert min(manifest.facts["class_counts"]["val"]) >= 3
        (near,) = findings(store, manifest)
        crossing = "the source has them in test and the other folds"
        assert (near["kind"], crossing in near["reason"]) == ("near-duplicate", fold < 2)
    reference = coloured(tmp_path / "reference", *numbered(30, 36))
    manifest = referred(store, root, str(reference), image_size_pixels=32)
    assert manifest.facts["num_examples"]["test"] == 12


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_folds": 3, "fold": 3}, "there is no fold 3: with num_folds=3, the last is 2"),
        ({"fold": 1}, "there is no fold 1: with num_folds=0, there are none"),
        ({"num_folds": 1}, "val_share and a fold leave nothing to train on"),
        ({"num_folds": 2, "val_share": 0.5}, "val_share and a fold leave nothing to train on"),
        ({"num_folds": 2, "reference": "sample"}, "num_folds and reference exclude each other"),
    ],
)
def test_folds_that_cannot_be_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        IngestConfig(**config)
