"""benchmarks/jax_training.py: from a zip of cells to a judged model, without TensorFlow and Prefect."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from helpers.absent import COMPILED_SOON, without_packages
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.sources.sample_cells import draw_cell

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import runpy, sys
sys.path.insert(0, "benchmarks")
runpy.run_path("benchmarks/jax_training.py", run_name="__main__")
"""


def archive(path: Path, num_per_class: int) -> Path:
    with zipfile.ZipFile(path, "w") as cells:
        for label, name in enumerate(PBC_CLASSES):
            for index in range(num_per_class):
                file = io.BytesIO()
                Image.fromarray(draw_cell(label, index)).save(file, "PNG")
                cells.writestr(f"cells/{name}/{index}.png", file.getvalue())
    return path


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", without_packages("tensorflow keras_cv prefect") + SCRIPT, *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"} | COMPILED_SOON,
        capture_output=True,
        text=True,
        check=False,
    )


def test_cells_in_a_zip_are_trained_on_and_judged(tmp_path: Path) -> None:
    changes = ("ingest.image_size_pixels=32", "train.head_units=[16]", "train.batch_size=16")
    done = run_script(
        str(archive(tmp_path / "cells.zip", 12)),
        *("--backbone", "cnn", "--size", "0", "--policy", "flips", "--minutes", "0.001"),
        *(argument for change in (*changes, "evaluate.batch_size=16") for argument in ("--set", change)),
        *("--json", str(tmp_path / "figures.json")),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert sum(figures["num_examples"].values()) == 96
    assert min(figures["num_examples"].values()) >= 8
    assert figures["epochs"] == 1
    assert figures["forward_flops"] > 16 * 32 * 32 * 3
    assert figures["optimizer_steps"] == -(-figures["num_examples"]["train"] // 16)
    for entry in ("test", "test_heavy_mix", "test_medmnistc"):
        low, high = figures["metrics"][entry]["intervals"]["accuracy"]
        assert 0 <= low <= figures["metrics"][entry]["accuracy"] <= high <= 1
        assert figures["metrics"][entry]["num_examples"] == figures["num_examples"]["test"]
    assert "s an epoch: 1 epochs in 0.001 minutes" in done.stdout
    assert "| heavy mix | 0." in done.stdout


def test_copies_made_before_training_are_refused(tmp_path: Path) -> None:
    done = run_script(str(tmp_path / "cells.zip"), "--policy", "robust")
    assert done.returncode == 2
    assert "Only online augmentation" in done.stderr
    assert "robust-online" in done.stderr
