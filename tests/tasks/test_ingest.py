from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.draft import Draft
from infra.errors import DataError
from infra.local_store import LocalStore
from infra.manifest import Manifest
from tasks.index import SPLITS
from tasks.ingest import IngestConfig, run
from tasks.records import read_batches
from tasks.sample import draw_cell
from tasks.stage import Parents

from pictures import inputs  # isort: skip


def ingest(store: LocalStore, data: Path | str, **config: Any) -> Manifest:
    return run(
        Parents(store, {}, str(data)), IngestConfig(**config), Draft(store, inputs("ingest", **config))
    )


def findings(store: LocalStore, manifest: Manifest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(manifest.read(store, "findings.json"))
    return found


def index(store: LocalStore, manifest: Manifest) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(manifest.read(store, "index.csv").decode())))


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
            (row.decode(), int(label.argmax()), image)
            for batch in read_batches(shards, 32, 2, 5).as_numpy_iterator()
            for row, label, image in zip(batch["id"], batch["label"], batch["image"], strict=True)
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


def test_the_competition_file_is_cleaned(store: LocalStore, tmp_path: Path, shared_dir: Path) -> None:
    """All 1,800 contaminants, every exact duplicate, and the conflicting pair of the real cells."""
    path = tmp_path / "training_set.npz"
    subprocess.run([sys.executable, shared_dir / "data" / "make_training_set.py", path], check=True)
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
