"""What the stack tools print, read into plain data. Pure functions: no process, no clock.

The input comes from a program that read another process's memory: it may be cut, garbled or of an
unknown version, so every function here accepts any bytes and none raises.

The formats are those of py-spy 0.4 (``dump --json``: a list of threads with ``frames``, innermost
first) and of pystack 1.7 (``remote``: text like a traceback, innermost last).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .dump import Frame, ThreadStack

_PYSTACK_THREAD = re.compile(
    r"Traceback for thread (?P<thread>\d{1,9})(?: \((?P<name>.*)\))? (?:\[(?P<status>[^\]]*)\] )?"
    r"\(most recent call last\):"
)
_PYSTACK_EMPTY = re.compile(r"The frame stack for thread (?P<thread>\d{1,9}) is empty")
_PYSTACK_INTERPRETER = re.compile(r"  (?:In|Not) .*\[(?P<status>[^\]]*)\]")
# Source lines are indented by eight, so none of them can pass for a frame.
_PYSTACK_FRAME = re.compile(
    r' {4}\((?P<kind>Python|C)\) File "(?P<file>.*)", line (?P<line>\d{1,9}), in (?P<function>.*)'
)
_MAX_COUNT = 2**31  # more than any line number or thread id (pid_max is at most 2**22)
_PYSTACK_HOLDS_GIL = "Has the GIL"


def parse_py_spy(output: bytes) -> tuple[ThreadStack, ...] | None:
    """Read the output of ``py-spy dump --json``; None when it is not that."""
    try:
        threads = json.loads(output.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(threads, list):
        return None
    return tuple(_py_spy_thread(entry) for entry in threads if isinstance(entry, dict))


def _py_spy_thread(entry: dict[str, Any]) -> ThreadStack:
    frames = entry.get("frames")
    return ThreadStack(
        frames=tuple(
            Frame(
                function=_text(frame.get("name")) or "?",
                file=_text(frame.get("filename")) or "?",
                line=_count(frame.get("line")) or 0,
            )
            for frame in (frames if isinstance(frames, list) else ())
            if isinstance(frame, dict)
        ),
        thread=_count(entry.get("os_thread_id")),
        name=_text(entry.get("thread_name")),
        holds_gil=entry.get("owns_gil") is True,
        active=entry.get("active") is True or entry.get("owns_gil") is True,
    )


def _text(value: object) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    # JSON escapes can spell lone surrogates, which no log or socket could encode later.
    return value.encode("utf-8", "replace").decode("utf-8")


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_COUNT:
        return value
    return None


def parse_pystack(output: bytes) -> tuple[ThreadStack, ...] | None:
    """Read the output of ``pystack remote``; None when no thread is in it."""
    threads: list[ThreadStack] = []
    frames: list[Frame] = []
    header: re.Match[str] | None = None
    status = ""

    def close() -> None:
        if header is not None:
            threads.append(_pystack_thread(header, status, frames))

    for line in output.decode("utf-8", "replace").split("\n"):
        if found := _PYSTACK_THREAD.fullmatch(line) or _PYSTACK_EMPTY.fullmatch(line):
            close()
            header, frames, status = found, [], found.groupdict().get("status") or ""
        elif found := _PYSTACK_INTERPRETER.fullmatch(line):
            # With several interpreters the status follows the header, once for each of them.
            status += found["status"]
        elif found := _PYSTACK_FRAME.fullmatch(line):
            function = found["function"]
            file = found["file"]
            frames.append(Frame(function=function, file=file, line=int(found["line"])))
    close()
    return tuple(threads) or None


def _pystack_thread(header: re.Match[str], status: str, frames: list[Frame]) -> ThreadStack:
    holds_gil = _PYSTACK_HOLDS_GIL in status
    return ThreadStack(
        frames=tuple(reversed(frames)),
        thread=int(header["thread"]) or None,
        name=header.groupdict().get("name") or None,
        holds_gil=holds_gil,
        active=holds_gil,
    )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a tool gave no stack."""

    reason: str
    """One line, with what to do about it where something can be done."""
    transient: bool = False
    """Whether another try may succeed: the process changed while it was read."""


_NOT_PERMITTED = ("permission denied", "operation not permitted", "cannot be traced", "os error 1)")
_NOT_PYTHON = ("failed to find python version", "could not determine python version")
_GONE = ("no such process", "check that the process is running")
_CHANGING = ("failed to get stack traces", "failed to find a python interpreter", "bad address")

_PERMISSION_HELP = (
    "run the server as the same user as the worker or give it CAP_SYS_PTRACE; "
    "kernel.yama.ptrace_scope must be 0 (1 allows only ancestors); in a container add SYS_PTRACE "
    "and a seccomp profile that allows process_vm_readv and ptrace"
)


def explain(pid: int, code: int, errors: bytes) -> Failure:
    """Explain why a tool ended with exit code ``code``, from its standard error."""
    text = errors.decode("utf-8", "replace")
    lowered = text.lower()
    # The order matters: pystack says "no such process" of one that it may not trace, too.
    if any(mark in lowered for mark in _NOT_PERMITTED):
        return Failure(f"not permitted to read process {pid}: {_PERMISSION_HELP}")
    if any(mark in lowered for mark in _NOT_PYTHON):
        return Failure(
            f"process {pid} is not a Python process, or its interpreter is not visible from here"
        )
    if any(mark in lowered for mark in _GONE):
        return Failure(f"process {pid} is gone")
    how = f"crashed by signal {-code}" if code < 0 else f"failed with exit code {code}"
    line = _telling_line(text)
    return Failure(
        f"{how}: {line}" if line else f"{how} and said nothing",
        transient=any(mark in lowered for mark in _CHANGING),
    )


def _telling_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # py-spy ends with a backtrace of itself; its message is the line that begins with "Error:".
    errors = [line for line in lines if line.startswith("Error:")]
    return (errors or lines[-1:] or [""])[0][:300]
