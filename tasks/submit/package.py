"""The submission: writes the text of model.py, packs it with the weights, unpacks it, runs it.

A submission is a zip without folders. It holds `model.py` and the files that model.py loads. model.py defines
a class `Model`: `__init__()` takes no arguments, `predict(X)` takes uint8[N, H, W, 3] in 0..255 and returns N
integer labels.

Guarantees: the same text and weights give the same zip, byte for byte. Unpacking writes only into its folder,
and refuses a zip whose content is larger than a limit. A submission is run by an interpreter that cannot
import this project, which proves that it needs nothing of it; this is no sandbox.
"""

from __future__ import annotations

import ast
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from hemaflow.infra.errors import DataError, StageError, printable
from hemaflow.infra.results.keras_backend import chosen_backend
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.sources.archives import BROKEN_ZIP, undated_entry
from hemaflow.tasks.submit import runner

# The files that model.py is made of. Their comments are part of it, and so of the key.
CODE_FILES = ("model_template.py", "../inference/views.py", "../inference/temperature.py")
HERE, TEMPLATE = Path(__file__).parent, "model_template.py"
INLINED = {
    "hemaflow.tasks.inference.views": "../inference/views.py",
    "hemaflow.tasks.inference.temperature": "../inference/temperature.py",
}

# Limits of an unpacked submission: above any backbone of keras.applications (the largest, ConvNeXtXLarge, has
# 1.4 GB of float32 weights), below the size of a disk.
MAX_UNPACKED_BYTES = 4 << 30
MAX_FILES = 1000

# Variables that a judge's machine has, too: where programs and accelerators are, and how to use them.
_KEPT_VARIABLES = ("PATH", "LANG", "SYSTEMROOT")
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "LD_", "DYLD_", "TF_", "XLA_", "OMP_")

_DAY_SECONDS = 24 * 3600.0


MAX_ABOUT_BYTES = 1 << 20
"""Maximum size of what a submission says about itself: above a thousand class names."""


class About(BaseModel):
    """What the runner writes about a submission (`tasks/submit/runner.py`)."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    versions: dict[str, str]
    classes: list[str]
    timed_images: NonNegativeInt
    timed_seconds: NonNegativeFloat


class Outcome(NamedTuple):
    """The result of a submission."""

    labels: NDArray[np.int64]
    """int64[n], as `Model.predict` returned them."""
    versions: dict[str, str]
    """Versions of the interpreter and the libraries that it ran under."""
    classes: tuple[str, ...]
    """The names of labels 0, 1, …; empty where the submission has no `Model.classes`."""
    images_per_second: float
    """Images per second after the first chunk; 0 if there was only one chunk."""


def model_code(
    classes: Sequence[str], chosen_views: Sequence[str], batch_size: int, temperature: float = 1.0
) -> str:
    """Return the text of model.py: `model_template.py`, constants filled in, what it imports inlined."""
    constants = {
        "SUBMITTED_CLASSES": ascii(tuple(classes)),
        "SUBMITTED_VIEWS": ascii(tuple(chosen_views)),
        "SUBMITTED_BATCH_SIZE": ascii(int(batch_size)),
        "SUBMITTED_TEMPERATURE": ascii(float(temperature)),
    }
    template = (HERE / TEMPLATE).read_text(encoding="utf-8")
    replaced: dict[ast.stmt, str] = {}
    for node in ast.parse(template).body:
        if isinstance(node, ast.ImportFrom) and node.module in INLINED:
            replaced[node] = _body((HERE / INLINED[node.module]).read_text(encoding="utf-8")) + "\n\n"
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            replaced[node] = f"{name} = {constants[name]}"
    return _replace(template, replaced)


def pack(zip_path: Path, code: str, model_path: Path) -> None:
    """Write the zip: no dates, nothing compressed, since releases of zlib differ in their bytes."""
    with zipfile.ZipFile(zip_path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(undated_entry("model.keras"), "w", force_zip64=True) as member:
            with model_path.open("rb") as source:
                shutil.copyfileobj(source, member, 1 << 20)
        archive.writestr(undated_entry("model.py"), code.encode())


def unpack(zip_path: Path, folder: Path) -> None:
    """Unpack a submission into an empty folder. Raises DataError for a zip that is hostile or broken."""
    misplaced = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
    try:
        with zipfile.ZipFile(zip_path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check(zip_path, members)
            for member in members:
                target = folder.joinpath(*PurePosixPath(member.filename).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except (*BROKEN_ZIP, *misplaced) as error:
        raise DataError(
            "The submission cannot be unpacked.",
            expected="a zip archive with model.py and its weights at the top",
            received=str(error),
            where=str(zip_path),
        ) from error


def run_submission(
    zip_path: Path, images_path: Path, *, chunk_size: int = 1024, timeout_seconds: float = _DAY_SECONDS
) -> Outcome:
    """Unpack a submission into an empty folder and classify images with it in a fresh interpreter.

    The code in the zip runs with the caller's rights, as any judge would run it. The unpacking is guarded,
    and the files that the code writes are checked before they are used.

    Args:
        zip_path: The submission.
        images_path: A .npy of uint8[n, H, W, 3].
        chunk_size: Number of images that `Model.predict` is given at once.
        timeout_seconds: Maximum run time.

    Raises:
        DataError: The file is not a zip, would write outside its folder or fill the disk, or has no model.py.
        StageError: The code in it failed, took too long, or broke the contract: n integer labels.
        StoreFull: There is no space to unpack it.
    """
    with scratch_folder() as root:
        submission, cwd, home = root / "submission", root / "cwd", root / "home"
        for folder in (submission, cwd, home):
            folder.mkdir()
        unpack(zip_path, submission)
        labels, about, log = root / "labels.npy", root / "about.json", root / "stderr.txt"
        script = Path(runner.__file__).resolve()
        arguments = [submission, images_path.resolve(), labels, about, chunk_size]
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(script), *map(str, arguments)],
                cwd=cwd,
                env=_environment(home),
                stdin=subprocess.PIPE,  # the runner ends when this end closes, even by our death
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
            with process:
                try:
                    status = process.wait(timeout_seconds)
                except subprocess.TimeoutExpired:
                    raise StageError(
                        f"The submission did not finish within {timeout_seconds:.0f} seconds.",
                        where=zip_path.name,
                    ) from None
                finally:
                    process.kill()
        if status != 0 or not labels.is_file() or not about.is_file():
            raise StageError(
                "The submission cannot be run on its own.",
                expected="Model().predict(X) to work with keras, tensorflow and numpy alone",
                received=f"exit status {status}; the end of its output:\n{_tail(log)}",
                where=zip_path.name,
            )
        described = _read_about(about, zip_path)
        return Outcome(
            _read_labels(labels, _num_images(images_path), zip_path),
            {name: printable(version) for name, version in described.versions.items()},
            tuple(described.classes),
            described.timed_images / described.timed_seconds if described.timed_seconds else 0.0,
        )


def _read_about(path: Path, zip_path: Path) -> About:
    """Return what the runner wrote about a submission. Raises StageError if its code wrote something else."""
    try:
        if path.stat().st_size > MAX_ABOUT_BYTES:
            raise ValueError(f"more than {MAX_ABOUT_BYTES} bytes")
        return About.model_validate_json(path.read_bytes())
    except ValueError as error:
        received = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            received = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        _broken_contract("a JSON document about itself, as the runner writes it", received, zip_path, error)


def _read_labels(path: Path, num_images: int, zip_path: Path) -> NDArray[np.int64]:
    """Return the labels, int64[n]. Raises StageError if the submission's code wrote something else."""
    expected = f"{num_images} labels as int64"
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            shape, _, dtype = (
                np.lib.format.read_array_header_1_0(file) if version == (1, 0) else ((), 0, None)
            )
            if shape != (num_images,) or dtype != np.int64:
                raise ValueError(f"shape {shape} and dtype {dtype}")
            return np.frombuffer(file.read(8 * num_images), np.int64, num_images)
    except Exception as error:  # numpy's errors for a file that is anything
        _broken_contract(expected, str(error), zip_path, error)


def _broken_contract(expected: str, received: str, zip_path: Path, cause: Exception) -> NoReturn:
    raise StageError(
        "The submission broke the contract: it ended as if it were complete, but its result is not valid.",
        expected=expected,
        received=received,
        where=zip_path.name,
        remedy="Its code wrote to the files of the runner, or ended the interpreter. Mend model.py.",
    ) from cause


def _num_images(path: Path) -> int:
    """Return n of a .npy of uint8[n, H, W, 3]."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return int(shape[0])


def write_images(path: Path, size_pixels: int, batches: Iterable[NDArray[np.uint8]]) -> int:
    """Write batches of uint8[b, S, S, 3] to one .npy as they come; return how many images they held."""
    count, header = 0, {"descr": "|u1", "fortran_order": False}
    with path.open("wb") as file:

        def write_header() -> None:
            shape = (count, size_pixels, size_pixels, 3)
            np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})

        write_header()  # its room does not depend on the count: numpy leaves space for it to grow
        for batch in batches:
            file.write(batch.tobytes())
            count += len(batch)
        file.seek(0)
        write_header()
    return count


def _check(zip_path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Raise DataError for an archive that would do harm, or has no model.py."""

    def refused(what: str, received: str) -> DataError:
        return DataError(what, received=received, where=str(zip_path))

    for member in members:
        parts = PurePosixPath(member.filename).parts
        if not parts or parts[0] == "/" or ".." in parts or {"\\", ":"} & set(member.filename):
            raise refused("The submission would write outside its folder.", repr(member.filename))
        if stat.S_ISLNK(member.external_attr >> 16):
            raise refused("The submission contains a link.", repr(member.filename))
    unpacked_bytes = sum(member.file_size for member in members)  # zipfile never reads more of a member
    if unpacked_bytes > MAX_UNPACKED_BYTES or len(members) > MAX_FILES:
        raise refused(
            f"The submission unpacks to more than {MAX_UNPACKED_BYTES} bytes or {MAX_FILES} files.",
            f"{unpacked_bytes} bytes in {len(members)} files",
        )
    names = [member.filename for member in members]
    if "model.py" not in names:
        raise DataError(
            "The submission has no model.py.",
            expected="model.py at the top of the archive, in no folder",
            received=", ".join(map(repr, names[:5])) or "an empty archive",
            where=str(zip_path),
        )


def _environment(home: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    own = {
        "HOME": str(home),
        "TMPDIR": str(home),
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        # Set explicitly: the file that chose it may be in the home directory, which is hidden.
        "KERAS_BACKEND": chosen_backend(),
    }
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **kept, **own}


def _body(source: str) -> str:
    """Return a module's text without its docstring and its `from __future__` line."""
    left_out: dict[ast.stmt, str] = {}
    for index, node in enumerate(ast.parse(source).body):
        docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            left_out[node] = ""
    return _replace(source, left_out).strip()


def _replace(source: str, replaced: Mapping[ast.stmt, str]) -> str:
    """Return a module's text with whole statements replaced; comments behind them stay."""
    lines = source.splitlines()
    for node, text in sorted(replaced.items(), key=lambda item: item[0].lineno, reverse=True):
        last, column = node.end_lineno or node.lineno, node.end_col_offset or 0
        comment = lines[last - 1].encode()[column:].decode()
        lines[node.lineno - 1 : last] = [text + comment]
    return "\n".join(lines) + "\n"


def _tail(path: Path, num_bytes: int = 2000) -> str:
    """Return the end of a submission's output, each line marked, so that none passes for a line of ours."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - num_bytes))
        text = printable(file.read().decode(errors="replace").replace("\r", "\n").strip())
    return "\n".join(f"  | {line}" for line in text.splitlines())
