"""The tools that take a stack: missing, hanging, crashing."""

from __future__ import annotations

import contextlib
import shutil
import sysconfig
from typing import TYPE_CHECKING

from .fault import Fault, Weaker
from .promises import EXPLAINED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .observation import Observation
    from .stage import Stage

__all__ = ["FAULTS"]

TOOLS = ("py-spy", "pystack")
HANGS = "#!/bin/sh\nexec sleep 1000\n"
CRASHES = "#!/bin/sh\nkill -SEGV $$\n"
SECONDS = {1: "8", 2: "4"}
"""The bound on a dump where that many tools hang: enough for each that is tried."""


class BrokenTools(Fault):
    """Something else, or nothing, in the place of a tool.

    :param name: of the fault.
    :param script: what there is; None for nothing.
    :param broken: which tools.
    :param why: what the event has to say about each of them.
    """

    def __init__(self, name: str, script: str | None, broken: tuple[str, ...], why: str) -> None:
        self.name = name
        self._script = script
        self._broken = broken
        self._why = why
        found = "by pystack" if len(broken) < len(TOOLS) else "facts and the reason, no stack"
        self.weaker = {EXPLAINED: Weaker(found, self._explained)}

    def unavailable(self) -> str | None:
        if len(self._broken) < len(TOOLS) and _which("pystack") is None:
            return "pystack, which is to take over, is not installed"
        return None

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        for tool in self._broken:
            path = stage.directory / tool
            if self._script is not None:
                path.write_text(self._script)
                path.chmod(0o755)
            stage.environment[_VARIABLES[tool]] = str(path)
        if self._script == HANGS:
            stage.arguments += ["--dump-timeout", SECONDS[len(self._broken)]]
        yield

    def _explained(self, seen: Observation) -> None:
        nothing_works = len(self._broken) == len(TOOLS)
        for worker in (seen.first, seen.second):
            [dump] = seen.named("stack dumped", worker.pid)
            reasons = {
                line.split(":")[0].split()[0]: line for line in dump["stack_error"].splitlines()
            }
            for tool in self._broken:
                assert self._why in reasons[tool]
            if "stack" in dump:
                assert not nothing_works
                assert (dump["stack_method"], dump["frame"]) == ("pystack", worker.frame)
            else:
                # A machine may be too busy for it to be done in the time that a hang has left.
                assert nothing_works or "timed out after" in reasons["pystack"]
                assert (dump["stack_method"], dump["process_state"]) == ("proc", "sleeping")


_VARIABLES = {"py-spy": "TIMERS_PY_SPY", "pystack": "TIMERS_PYSTACK"}


def _which(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path=sysconfig.get_path("scripts"))


FAULTS = [
    BrokenTools("py-spy is missing", None, TOOLS[:1], "is not an executable file"),
    BrokenTools("py-spy hangs", HANGS, TOOLS[:1], "timed out after"),
    BrokenTools("py-spy crashes", CRASHES, TOOLS[:1], "signal 11"),
    BrokenTools("every dump tool is missing", None, TOOLS, "is not an executable file"),
    BrokenTools("every dump tool hangs", HANGS, TOOLS, "timed out after"),
    BrokenTools("every dump tool crashes", CRASHES, TOOLS, "signal 11"),
]
