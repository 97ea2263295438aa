"""Plants faults in a copy of the code, one after another, and says which test finds each.

    python benchmarks/mutants.py [--only NAME …] [--write docs/mutants.md]

A mutant is one change of one place: a key that forgets the config, a lease that everybody gets, a manifest
that is written first. Its tests are run on the copy, by `pytest -x`; they pass on the code as it is (that is
checked first), and at least one must fail with the mutant. A run that does not end within a mutant's time has
found it, too: that is how a retry that never ends shows itself. The exit code is 1 where a mutant lives.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("flows", "tasks", "infra", "hemaflow", "tests", "benchmarks", "docs")
COPIED_FILES = ("pyproject.toml", "prefect.yaml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "uv.lock")
SECONDS = 900.0
"""The most that the tests of one mutant may take."""
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """A fault to plant.

    Attributes:
        name: The fault, in words.
        kind: What sort of fault it is.
        file: Where it is planted.
        old: Text that is in the file once.
        new: What it is replaced with.
        tests: What should find it: files, or tests by their ids.
        seconds: When its tests are ended.
    """

    name: str
    kind: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    seconds: float = SECONDS


MUTANTS = (
    # Keys: what a result is remembered by
    Mutant(
        "the key forgets the config", "key", "infra/results/manifest.py",
        'exclude=set() if self.names else {"names"}', 'exclude={"config"}',
        ("tests/infra/results/test_draft.py", "tests/flows/engine/test_engine.py"),
    ),
    Mutant(
        "the key forgets the libraries", "key", "flows/engine/engine.py",
        "libraries=self._libraries[name],", "libraries={},",
        ("tests/flows/engine/test_engine.py", "tests/flows/runs/test_why.py"),
    ),
    Mutant(
        "the key forgets the code of imported modules", "key", "infra/results/code/reach.py",
        "            self._reach(*target, attribute)\n", "",
        ("tests/infra/results/test_fingerprint.py",),
    ),
    Mutant(
        "the key forgets what functions import themselves", "key", "infra/results/code/reach.py",
        "for target in code.imports:", "for target in ():",
        ("tests/infra/results/test_fingerprint.py",),
    ),
    Mutant(
        "the key forgets a statement that is there for its effect", "key", "infra/results/code/reach.py",
        " or (statement.is_bare and not touched and not rows)", "",
        ("tests/infra/results/test_fingerprint.py",),
    ),
    Mutant(
        "the key forgets the rows that the config names", "key", "flows/engine/engine.py",
        "words(config).union(names)", "set(names)",
        ("tests/flows/engine/test_code_changes.py",),
    ),
    Mutant(
        "a child is keyed by its parent's key, not by its content", "key", "flows/engine/engine.py",
        "{parent: stage.reads_of(parents[parent]).digest for", "{parent: parents[parent].key for",
        ("tests/flows/engine/test_engine.py",),
    ),
    # The record: what counts as complete
    Mutant(
        "the manifest is written before the last object", "record", "infra/results/draft.py",
        "        self.store.put(stored.location, data)\n",
        "        self.store.create(\n"
        "            manifest_name(self.stage, self.key),\n"
        "            canonical_json(\n"
        "                Manifest(\n"
        "                    stage=self.stage, key=self.key, inputs=self.inputs,\n"
        "                    objects=(stored,), facts={},\n"
        '                ).model_dump(mode="json")\n'
        "            ),\n"
        "        )\n"
        "        self.store.put(stored.location, data)\n",
        ("tests/infra/results/test_draft.py",),
    ),
    Mutant(
        "the second to commit overwrites the first", "record", "infra/results/draft.py",
        "else self.store.create(name, data)", "else not self.store.put(name, data)",
        ("tests/infra/results/test_draft.py",),
    ),
    Mutant(
        "an altered object of a hit is not noticed", "record", "infra/results/manifest.py",
        'return "" if stat.sha256 == self.sha256 else', 'return "" if stat.sha256 else',
        ("tests/flows/engine/test_engine.py", "tests/infra/results/test_draft.py"),
    ),
    Mutant(
        "bytes are read without a look at their SHA-256", "record", "infra/results/manifest.py",
        "if hashlib.sha256(data).hexdigest() != stored.sha256:", "if not stored.sha256:",
        ("tests/infra/results/test_draft.py",),
    ),
    Mutant(
        "a complete shard is written again", "resume", "tasks/augment/stage.py",
        "complete = draft.committed_part(shard.name)", "complete = None",
        ("tests/tasks/augment/test_augment.py::test_only_missing_shards_are_written",),
    ),
    Mutant(
        "a part whose object is gone counts as complete", "resume", "infra/results/draft.py",
        "if not stored.problem(self.store):", "if stored.size_bytes >= 0:",
        ("tests/infra/results/test_draft.py",),
    ),
    # The store and its locks
    Mutant(
        "everybody gets the lease", "concurrency", "infra/store/lease.py",
        "if self._store.create(self._name, self._document()):",
        "if self._store.create(self._name, self._document()) or True:",
        ("tests/infra/store/test_lease.py",),
    ),
    Mutant(
        "a lease outlives the process that held it", "concurrency", "infra/store/lease.py",
        "except psutil.NoSuchProcess:\n            return True",
        "except psutil.NoSuchProcess:\n            return False",
        ("tests/infra/store/test_lease.py",),
    ),
    Mutant(
        "a swap does not look at what it replaces", "concurrency", "infra/store/local.py",
        "if current is None or current[1] != tag:", "if current is None:",
        ("tests/infra/store/test_store.py",),
    ),
    Mutant(
        "the champion is promoted though another one came first", "concurrency", "flows/runs/champion.py",
        "store.swap(POINTER, data, seen_tag) if seen_tag", "store.put(POINTER, data) is None if seen_tag",
        ("tests/flows/runs/test_champion.py",),
    ),
    Mutant(
        "a folder that cannot be read is an empty store", "error as absence", "infra/store/local.py",
        "onerror=self._not_listed", "onerror=None",
        ("tests/infra/store/test_local_store.py",),
    ),
    Mutant(
        "a server that is busy has no such object", "error as absence", "infra/store/s3_errors.py",
        'ABSENT = ("404",', 'ABSENT = ("503", "SlowDown", "404",',
        ("tests/infra/store/test_s3_store.py::test_a_fault_that_stays_is_an_error_and_never_an_absence",),
    ),
    Mutant(
        "a damaged answer of S3 is believed", "verification", "infra/store/s3.py",
        "if not sha256 or _sha256(data) == sha256:", "if len(sha256) >= 0:",
        ("tests/infra/store/test_s3_store.py::test_an_altered_body_is_an_error_and_no_content",),
    ),
    Mutant(
        "a damaged object is fetched for ever", "endless retry", "infra/store/staging.py",
        "for _ in range(READS):  # the first", "while True:  # the first",
        ("tests/infra/store/test_staging.py::test_a_damaged_beginning_is_fetched_again_and_damaged_content_refused",),
        60.0,
    ),
    Mutant(
        "an error names the endpoint", "secret", "infra/store/s3_errors.py",
        'f"The store cannot be reached: {type(error).__name__}."', 'f"The store cannot be reached: {error}."',
        ("tests/infra/store/test_s3_store.py::test_no_error_or_log_names_secrets_or_the_endpoint",),
    ),
    Mutant(
        "garbage collection removes what an unfinished run needs", "lost data", "flows/runs/upkeep.py",
        "{key for record in kept for key in record.needs.values()}",
        "{stage.key for record in kept for stage in record.stages}",
        ("tests/flows/runs/test_upkeep.py",),
    ),
    # Data: what may be learnt from what
    Mutant(
        "near duplicates cross a split", "leak", "tasks/ingest/splitting.py",
        "np.asarray(groups, np.int64), return_index", "np.arange(len(groups)), return_index",
        ("tests/tasks/ingest/test_splitting.py",),
    ),
    Mutant(
        "near duplicates are looked for one bit too near", "leak", "tasks/ingest/near_duplicates.py",
        "distance <= self._max_bits\n", "distance < self._max_bits\n",
        ("tests/tasks/ingest/test_cleaning.py",),
    ),
    Mutant(
        "of copies, that of the training split is kept", "leak", "tasks/ingest/cleaning.py",
        "first = max(same,", "first = min(same,",
        ("tests/tasks/ingest/test_cleaning.py",),
    ),
    Mutant(
        "val images are trained on", "leak", "tasks/augment/stage.py",
        'IngestFacts.of(parents["ingest"]), parents["ingest"].matching("train-")',
        'IngestFacts.of(parents["ingest"]), [\n'
        '        *parents["ingest"].matching("val-"), *parents["ingest"].matching("train-")\n'
        "    ]",
        ("tests/tasks/augment/test_augment.py::test_originals_alone",),
    ),
    Mutant(
        "labels are shuffled apart from their images", "labels", "tasks/augment/stage.py",
        "images.pixels[rows], images.labels[rows]", "images.pixels[rows], images.labels[np.sort(rows)]",
        ("tests/tasks/augment/test_augment.py::test_originals_alone",),
    ),
    Mutant(
        "all shards are augmented alike", "randomness", "tasks/augment/stage.py",
        "_key(config.seed, shard.name, batch)", "_key(config.seed, batch)",
        ("tests/tasks/augment/test_augment.py::test_shards_draw_differently",),
    ),
    # Training
    Mutant(
        "every epoch has the order of the first", "randomness", "tasks/records/tf_feed.py",
        "np.random.default_rng((seed, epoch))", "np.random.default_rng((seed, 0))",
        ("tests/tasks/records/test_tf_feed.py",),
    ),
    Mutant(
        "a feed begun later begins at the beginning", "resume", "tasks/records/tf_feed.py",
        ".skip(first_step)", ".skip(0)",
        ("tests/tasks/records/test_tf_feed.py",),
    ),
    Mutant(
        "a training that goes on forgets the optimizer", "resume", "tasks/train/loop.py",
        '            (self._optimizer_variables(), "optimizer"),\n        ):', "        ):",
        ("tests/tasks/train/test_train.py::test_a_cut_training_goes_on_and_ends_as_an_uncut_one",),
    ),
    Mutant(
        "the last epoch is kept, not the best", "selection", "tasks/train/loop.py",
        "if self._is_best(len(at.history) + 1, measured):",
        "if self._is_best(len(at.history) + 1, measured) or True:",
        ("tests/tasks/train/test_train.py::test_the_weights_of_the_best_epoch_are_kept_not_those_of_the_last",),
    ),
    Mutant(
        "probabilities do not sum to 1", "mathematics", "tasks/model/network.py",
        'Dense(num_classes, "softmax"', 'Dense(num_classes, "sigmoid"',
        ("tests/tasks/model/test_zoo.py::test_every_backbone_learns_and_is_submitted",),
    ),
    # Judging
    Mutant(
        "a temperature is applied along the images", "mathematics", "tasks/inference/temperature.py",
        "powers.sum(1, keepdims=True)", "powers.sum(0, keepdims=True)",
        ("tests/tasks/submit/test_calibration.py",),
    ),
    Mutant(
        "a horizontal flip is a vertical one", "mathematics", "tasks/inference/views.py",
        '{"horizontal": 2, "vertical": 1}[amount]', '{"horizontal": 1, "vertical": 1}[amount]',
        ("tests/tasks/inference/test_views.py",),
    ),
    Mutant(
        "only the first view is averaged", "mathematics", "tasks/inference/views.py",
        "for probabilities in given:", "for probabilities in given[:1]:",
        ("tests/tasks/inference/test_views.py",),
    ),
    Mutant(
        "balanced accuracy counts absent classes", "mathematics", "tasks/evaluate/metrics.py",
        "recall.sum(1) / present.sum(1)", "recall.sum(1) / num_classes",
        ("tests/tasks/evaluate/test_metrics.py",),
    ),
    Mutant(
        "a challenger is promoted by the upper bound", "decision", "tasks/review/judge.py",
        "if not low > -config.delta:", "if not high > -config.delta:",
        ("tests/tasks/review/test_judge.py::test_the_lower_bound_decides",),
    ),
    Mutant(
        "labels of two models are matched by number", "decision", "tasks/review/judge.py",
        "classes.index(name) if name in classes else -1 for name in classifier.classes",
        "place for place, name in enumerate(classifier.classes)",
        ("tests/tasks/review/test_judge.py::test_classes_are_matched_by_name",),
    ),
    # The submission
    Mutant(
        "a submission that disagrees with the report is kept", "verification", "tasks/submit/stage.py",
        "np.flatnonzero(labels != reported.predicted)", "np.flatnonzero(labels < 0)",
        ("tests/tasks/submit/test_submit.py::test_submission_of_another_model_is_refused_and_nothing_committed",),
    ),
    Mutant(
        "a zip writes out of its folder", "security", "tasks/submit/package.py",
        'parts[0] == "/" or ".." in parts or', 'parts[0] == "/" or',
        ("tests/tasks/submit/test_submit.py::test_zip_that_leaves_its_folder_is_refused",),
    ),
    # Processes
    Mutant(
        "a failure ends with exit code 0", "exit code", "flows/cli/main.py",
        "sys.exit(error.exit_code)", "sys.exit(0)",
        ("tests/flows/cli/test_cli.py",),
    ),
    Mutant(
        "a worker outlives its parent", "orphan", "flows/engine/worker_main.py",
        "os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(STOP_SECONDS)", "time.sleep(10 * STOP_SECONDS)",
        ("tests/flows/engine/test_worker_process.py::test_a_worker_ends_when_its_parent_is_killed",),
    ),
    Mutant(
        "the keyboard interrupt kills workers before they keep a checkpoint", "signal",
        "flows/engine/worker_main.py",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)", "signal.signal(signal.SIGINT, signal.SIG_DFL)",
        ("tests/flows/test_pipeline.py::test_a_training_that_is_interrupted_takes_the_steps_of_an_uncut_one",),
    ),
    Mutant(
        "a terminated run ends with exit code 0", "signal", "flows/cli/main.py",
        "KEYBOARD_INTERRUPT, TERMINATED = 130, 143", "KEYBOARD_INTERRUPT, TERMINATED = 130, 0",
        ("tests/flows/test_pipeline.py::test_a_run_that_is_terminated_loses_only_the_shards_under_way",),
    ),
    Mutant(
        "a stopped run counts as failed", "signal", "flows/engine/run.py",
        "stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)", "stopped = False",
        ("tests/flows/test_pipeline.py::test_a_run_that_is_terminated_loses_only_the_shards_under_way",),
    ),
    Mutant(
        "shards meant for a cluster are written here", "placement", "flows/server/task_runner.py",
        'if settings.task_runner == "threads":', 'if settings.task_runner in ("threads", "dask"):',
        ("tests/flows/server/test_task_runner.py",),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: the test that found it, "" where none did, and how long that took."""

    mutant: Mutant
    caught_by: str
    seconds: float


def copy_checkout(folder: Path) -> None:
    """Copy what the tests need; links stay links."""
    ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in COPIED_FILES:
        shutil.copyfile(ROOT / name, folder / name)


def plant(mutant: Mutant, folder: Path) -> str:
    """Change the file of a mutant in a copy; return what it was."""
    path = folder / mutant.file
    before = path.read_text()
    if before.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.file} holds {before.count(mutant.old)} times, not once: {mutant.old!r}")
    path.write_text(before.replace(mutant.old, mutant.new))
    return before


def first_failure(folder: Path, tests: Iterable[str], seconds: float) -> str:
    """Run tests in a copy and return the first that fails, "" where all pass."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-rfE",
        *tests,
    ]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"no end within {seconds:.0f} s"
    if process.returncode == 0:
        return ""
    found = FAILED.search(said)
    if process.returncode != 1 or not found:
        raise SystemExit(f"pytest ended with {process.returncode}:\n{said[-3000:]}")
    return found[1]


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the page of the mutants, in Markdown."""
    rows = [
        f"| {outcome.mutant.name} | {outcome.mutant.kind} | `{outcome.mutant.file}` | "
        + (f"`{outcome.caught_by.removeprefix('tests/')}`" if outcome.caught_by else "**nothing**")
        + " |"
        for outcome in outcomes
    ]
    return "\n".join(
        [
            "# Mutants",
            "",
            "Faults that `benchmarks/mutants.py` plants in a copy of the code, one at a time, and the first",
            "test that fails with each. Whoever shortens a test runs it again: what was found before must be",
            "found after.",
            "",
            "| fault | kind | planted in | found by |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> int:
    """Plant each mutant, run its tests, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="words in the names of the mutants to plant")
    parser.add_argument("--write", type=Path, help="write the table to this file")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without a mutant first")
    arguments = parser.parse_args()
    chosen = [m for m in MUTANTS if not arguments.only or any(word in m.name for word in arguments.only)]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="hemaflow-mutants-") as name:
        folder = Path(name) / "checkout"
        folder.mkdir()
        copy_checkout(folder)
        if not arguments.trust:
            tests = dict.fromkeys(test for mutant in chosen for test in mutant.tests)
            if failed := first_failure(folder, tests, SECONDS * 4):
                raise SystemExit(f"fails without a mutant: {failed}")
        for mutant in chosen:
            before, started = plant(mutant, folder), time.monotonic()
            try:
                caught_by = first_failure(folder, mutant.tests, mutant.seconds)
            finally:
                (folder / mutant.file).write_text(before)
            outcomes.append(Outcome(mutant, caught_by, time.monotonic() - started))
            print(f"{outcomes[-1].seconds:6.1f} s  {mutant.name}: {caught_by or 'NOT FOUND'}", flush=True)
    if arguments.write:
        arguments.write.write_text(table(outcomes))
    alive = [outcome.mutant.name for outcome in outcomes if not outcome.caught_by]
    print(f"{len(outcomes) - len(alive)} of {len(outcomes)} found; alive: {', '.join(alive) or 'none'}")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
