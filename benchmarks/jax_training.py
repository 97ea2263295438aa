"""Train and judge a classifier under JAX, from an archive of cells alone: no TensorFlow, no Prefect.

Reads a zip or folder of class folders with the stages of the pipeline: ingest cleans and splits it (near
duplicates never cross), train trains with online augmentation in one phase, and evaluate's measures judge the
test split: clean, under the heavy mix, and under the corruptions of MedMNIST-C. Prints a table.

    python benchmarks/jax_training.py cells.zip --backbone efficientnetv2-s --size 224 --minutes 15

`--minutes` bounds the training: two epochs are trained beforehand, the first of which compiles, and as many
as fit by the second are then trained from the start. Reading, measuring and judging come on top. Any field of
a recipe may be changed, as in `--set train.batch_size=256`.

The share of the device's peak counts one training step as three forward passes (one forward, two backward),
each with the FLOPs of JAX's cost analysis of the saved model: online augmentation and optimizer do not count.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import numpy as np
from augment_scaling import draft_of
from train_memory import parents_of

from hemaflow.flows.config.changes import change
from hemaflow.flows.config.policies import POLICIES
from hemaflow.flows.config.stages import PipelineConfig
from hemaflow.infra.errors import ConfigError, HemaflowError
from hemaflow.infra.results.draft import Draft, silent
from hemaflow.infra.results.manifest import KeyInputs, Manifest
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.run_metrics import RunMetrics
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.evaluate import stage as evaluate
from hemaflow.tasks.evaluate.config import EvaluateConfig
from hemaflow.tasks.ingest import stage as ingest
from hemaflow.tasks.predict import stage as predict
from hemaflow.tasks.predict.config import IDENTITY
from hemaflow.tasks.train import loop
from hemaflow.tasks.train import stage as train
from hemaflow.tasks.train.config import TrainConfig

PEAK_TFLOPS = {"NVIDIA H100 80GB HBM3": 989.0, "NVIDIA H200": 989.0}
"""In bfloat16, dense (NVIDIA's datasheets of the H100 SXM and the H200), by JAX's name of the device."""
PASSES = 3
"""Of a training step, in forward passes: the gradients cost about twice as much (arXiv:2001.08361, 2.1)."""
ENTRIES = {"test": "clean", "test_heavy_mix": "heavy mix", "test_medmnistc": "MedMNIST-C"}


class TimedDraft(Draft):
    """A result of train that notes when steps and epochs end; nobody goes on from it, so it keeps nothing."""

    def __init__(self, store: Store, tag: str) -> None:
        inputs = KeyInputs(stage="train", config={"tag": tag}, parents={}, code={}, libraries={})
        super().__init__(store, inputs, progress=self._note_step)
        self.began = time.perf_counter()
        self.step_ends: list[float] = []
        self.epoch_ends: list[float] = []

    def keep(self, name: str, data: bytes) -> None:
        """Note the end of an epoch, validation included."""
        self.epoch_ends.append(time.perf_counter())

    def _note_step(self, done: int, total: int, text: str) -> None:
        self.step_ends.append(time.perf_counter())


def config_of(arguments: argparse.Namespace) -> PipelineConfig:
    """Return the config that the arguments ask for. Raises ConfigError."""
    changes = [
        f"policy={arguments.policy}",
        f"train.backbone={arguments.backbone}",
        f"train.input_size_pixels={arguments.size}",
        *arguments.set,
    ]
    config = change(PipelineConfig(), changes)
    if config.augment.copies or config.train.transfer.epochs:
        raise ConfigError(
            "Only online augmentation and one phase of training are measured here.",
            expected="augment.copies=0 and train.transfer.epochs=0",
            received=f"copies={config.augment.copies}, transfer.epochs={config.train.transfer.epochs}",
            remedy="Choose one of: " + ", ".join(name for name, p in POLICIES.items() if not p.copies),
        )
    return config


def timed_training(
    parents: Parents, config: TrainConfig, epochs: int, tag: str
) -> tuple[Manifest, dict[str, float]]:
    """Train for so many epochs; return the result and its times.

    Returns:
        The result, and seconds (all of it); where there is more than one epoch, epoch_seconds (median of
        those after the first: feed, steps, validation), compile_seconds (what the first took longer),
        images_per_second (in the epochs after the first), and step_milliseconds (median time from one
        step's end to the next, within these epochs).
    """
    phase = config.fine_tuning.model_copy(update={"epochs": epochs})
    draft = TimedDraft(parents.store, tag)
    changed = config.model_copy(update={"fine_tuning": phase}).resolved(parents.store)
    manifest = train.run(parents, changed, draft)
    times = {"seconds": time.perf_counter() - draft.began}
    taken = np.diff([draft.began, *draft.epoch_ends])
    if len(taken) > 1:
        steps = np.diff(np.reshape(draft.step_ends, (len(taken), -1))[1:])
        times["epoch_seconds"] = float(np.median(taken[1:]))
        times["compile_seconds"] = float(taken[0] - times["epoch_seconds"])
        times["images_per_second"] = parents["augment"].facts["num_examples"] / float(taken[1:].mean())
        if steps.size:
            times["step_milliseconds"] = 1000 * float(np.median(steps))
    return manifest, times


def epochs_that_fit(parents: Parents, config: TrainConfig, minutes: float) -> int:
    """Return how many epochs take at most so long, by a short training; one at least."""
    _, times = timed_training(parents, config, 2, "measured")
    left = 60 * minutes - times["compile_seconds"]
    epochs = max(1, int(left // times["epoch_seconds"]))
    print(
        f"Measured: {times['compile_seconds']:.1f} s to compile and {times['epoch_seconds']:.2f} s an epoch: "
        f"{epochs} epochs in {minutes:g} minutes.",
        flush=True,
    )
    return epochs


def judged(parents: Parents, trained: Manifest, config: EvaluateConfig) -> tuple[Any, dict[str, Any]]:
    """Return the saved model, and its metrics on the test split, each image as it is, without views."""
    import keras

    path = trained.path(parents.store, "model.keras")
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    passes = config.passes().model_copy(update={"views": (IDENTITY,)})
    with scratch_folder() as folder:
        found = predict.predict_split(parents, model, "test", passes, folder, silent).predictions
        measured = evaluate.measure(found, passes.views, parents["ingest"].facts["classes"], config)
    shown = {name: measured[name] for name in ENTRIES if name in measured}
    return model, RunMetrics.model_validate(shown).document()


def forward_flops(model: Any, batch_size: int) -> float:
    """Return the FLOPs of one forward pass of a batch, by JAX's cost analysis.

    Of the program as JAX hands it to the compiler: on a GPU, the compiled one calls a library for what it
    convolves, and calls are not counted.
    """
    import jax

    def forward(trainable: Any, others: Any, images: Any) -> Any:
        return model.stateless_call(trainable, others, images, training=False)[0]

    values = (
        [variable.value for variable in own]
        for own in (model.trainable_variables, model.non_trainable_variables)
    )
    images = jax.ShapeDtypeStruct((batch_size, *model.input_shape[1:]), "float32")
    return float(jax.jit(forward).lower(*values, images).cost_analysis()["flops"])


def table(document: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = ["| test split | accuracy | 95 % interval | images |", "|---|---|---|---|"]
    for entry, name in ENTRIES.items():
        if metrics := document["metrics"].get(entry):
            low, high = metrics["intervals"]["accuracy"]
            accuracy, images = metrics["accuracy"], metrics["num_examples"]
            lines.append(f"| {name} | {accuracy:.4f} | {low:.4f} to {high:.4f} | {images} |")
    times = document["times"]
    lines += [
        "",
        "| training | |",
        "|---|---|",
        f"| device | {document['device']}, JAX {document['jax']}, Keras {document['keras']} |",
        f"| parameters | {document['num_parameters']:,} |",
        f"| epochs, optimizer steps | {document['epochs']}, {document['optimizer_steps']} |",
        f"| best val accuracy | {document['best_val_accuracy']:.4f} in epoch {document['best_epoch']} |",
        f"| seconds, all of it | {times['seconds']:.1f} |",
        f"| GFLOP per image, forward | {document['forward_flops'] / document['batch_size'] / 1e9:.2f} |",
    ]
    if "images_per_second" in times:
        lines.append(f"| images/s, after the first epoch | {times['images_per_second']:.0f} |")
    if "step_milliseconds" in times:
        lines.append(f"| ms per step of {document['batch_size']} images | {times['step_milliseconds']:.1f} |")
    if "peak_share" in document:
        peak = f"{document['peak_tflops']:g} TFLOP/s"
        lines.append(f"| share of the peak of {peak} | {100 * document['peak_share']:.1f} % |")
    return "\n".join(lines)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Read, train and judge in a folder; return all figures. Raises HemaflowError."""
    import jax
    import keras

    # The training that is measured and the one after it compile the same program.
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    config = config_of(arguments)
    store = LocalStore(folder / "store")
    source = Parents(store, {}, data=str(arguments.archive))
    images = ingest.run(source, config.ingest.resolved(store), draft_of(store, "ingest"))
    parents = parents_of(store, images)
    print(f"Images: {json.dumps(parents['ingest'].facts['num_examples'])}.", flush=True)
    settings = config.train
    epochs = arguments.epochs or epochs_that_fit(parents, settings, arguments.minutes)
    trained, times = timed_training(parents, settings, epochs, "trained")
    model, metrics = judged(parents, trained, config.evaluate)
    device, batch_size = jax.devices()[0].device_kind, settings.fine_tuning.batch_size or settings.batch_size
    document = {
        "device": device,
        "jax": jax.__version__,
        "keras": keras.__version__,
        "num_examples": parents["ingest"].facts["num_examples"],
        "num_parameters": trained.facts["num_parameters"],
        "epochs": trained.facts["epochs"],
        "optimizer_steps": trained.facts["optimizer_steps"],
        "best_epoch": trained.facts["best_epoch"],
        "best_val_accuracy": trained.facts["best_val_accuracy"],
        "batch_size": batch_size,
        "times": times,
        "forward_flops": forward_flops(model, batch_size),
        "metrics": metrics,
        "history": json.loads(trained.read(store, "history.json")),
        "config": config.model_dump(mode="json", include={"ingest", "train", "evaluate"}),
    }
    peak = arguments.peak_tflops or PEAK_TFLOPS.get(device, 0.0)
    if peak and "step_milliseconds" in times:
        per_second = PASSES * document["forward_flops"] / (times["step_milliseconds"] / 1000)
        document |= {"peak_tflops": peak, "peak_share": per_second / (peak * 1e12)}
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("archive", type=Path, help="a zip or folder with one folder per class")
    parser.add_argument("--backbone", default="efficientnetv2-s")
    parser.add_argument("--size", type=int, default=224, help="what the network takes, pixels")
    parser.add_argument("--policy", default="robust-online", help="augmentation, online only")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=15.0, help="for the training")
    length.add_argument("--epochs", type=int, default=0, help="instead of --minutes")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    parser.add_argument(
        "--peak-tflops", type=float, default=0.0, help="of the device; known of H100 and H200"
    )
    parser.add_argument("--json", type=Path, help="where all figures are written to")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tasks").setLevel(logging.INFO)
    loop.PROGRESS_SECONDS = 0.0  # every step is told of, so that each is timed
    try:
        with scratch_folder() as folder:
            document = measure(arguments, folder)
    except HemaflowError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"\n{table(document)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
