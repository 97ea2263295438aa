"""Has every Python process of a run write down which functions of hemaflow run, stage by stage.

Python imports this at its start where this folder is on PYTHONPATH. `CODE_TRACE` names a folder that gets a
file for each process, with a line for each function: stage, file, first line, name, file of the caller. What
runs while a module is imported is left out. Outside of a job, the stage is "".
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any


class Tracer:
    """The trace function of this process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stage = ""
        self._seen: set[tuple[str, int, int]] = set()
        self._known: dict[int, CodeType] = {}  # kept alive, so that no other code gets its id
        self._foreign: set[int] = set()
        self._importing = threading.local()

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        """Note a call; return what is to see the end of it, where that matters."""
        code = frame.f_code
        number = id(code)  # the hash of a code object takes long
        if number in self._foreign:
            return None
        self._known[number] = code
        if "/hemaflow/" not in code.co_filename:
            self._foreign.add(number)
            return None
        if code.co_name == "<module>":
            if frame.f_globals.get("__name__") == "__main__":  # a program: its end is that of the process
                return None
            self._importing.depth = self._depth() + 1
            return self._until_imported(frame)
        if self._depth():
            return None
        if code.co_qualname == "Job.run":
            self._stage = frame.f_locals["self"].inputs.stage
            return self._until_done(frame)
        caller = frame.f_back.f_code if frame.f_back else code
        call = (self._stage, number, id(caller))
        if call not in self._seen:
            self._seen.add(call)
            self._known[id(caller)] = caller
            fields = (self._stage, _within(code), code.co_firstlineno, code.co_qualname, _within(caller))
            with self._file.open("a") as lines:
                lines.write("\t".join(map(str, fields)) + "\n")
        return None

    def _depth(self) -> int:
        return getattr(self._importing, "depth", 0)

    def _until_imported(self, frame: FrameType) -> Any:
        frame.f_trace_lines = False

        def returned(_: FrameType, event: str, __: object) -> Any:
            if event == "return":
                self._importing.depth -= 1
            return returned

        return returned

    def _until_done(self, frame: FrameType) -> Any:
        frame.f_trace_lines = False

        def returned(_: FrameType, event: str, __: object) -> Any:
            if event == "return":
                self._stage = ""
            return returned

        return returned


def _within(code: CodeType) -> str:
    """Return the file of a function relative to the package; all of its name where it is not of hemaflow."""
    return code.co_filename.rpartition("/hemaflow/")[2]


if "CODE_TRACE" in os.environ:
    _tracer = Tracer(Path(os.environ["CODE_TRACE"]) / f"{os.getpid()}.tsv")
    threading.settrace(_tracer)
    sys.settrace(_tracer)
