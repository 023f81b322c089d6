"""The source around a line of the job's own code: its text, and the loop that it is in.

A function that is met at every sample may be slow or endless, and nothing outside tells which. The
source says a little: a ``for`` ends with what it goes through, a ``while`` may ask again and again
for what never comes.

Decision: a file is read only when it is a regular one of this process's own user, on a thread that
is left behind when that blocks (a network file system may be what hangs).
"""

from __future__ import annotations

import ast
import os
import stat
import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from observability.samples.types import Loop, Source
from timers.bounded import call_until

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_BYTES = 1 << 19
_LONGEST_LINE = 120
_LONGEST_SECONDS = 0.3
_ASKING_CALLS = frozenset(
    ("exists", "isfile", "isdir", "lexists", "stat", "is_file", "is_dir", "listdir", "glob",
     "access", "is_set", "empty", "qsize", "full", "poll", "done", "ready", "is_completed",
     "is_alive", "running", "locked", "time", "monotonic", "perf_counter", "sleep", "check",
     "query", "join", "Path", "str", "len", "int", "format", "get", "getenv", "debug", "info",
     "warning", "print")
)  # fmt: skip
"""What a loop calls that waits by asking: it asks, it reads a clock, it sleeps."""
_WORK = (ast.MatMult, ast.Mult, ast.Div, ast.FloorDiv, ast.Pow, ast.Mod)


def source_at(pid: int, file: str, line: int) -> Source | None:
    """Read about ``line`` of ``file`` as the process ``pid`` sees it; None when it cannot be read.

    Takes at most 0.3 s. Never raises.
    """
    until = time.monotonic() + _LONGEST_SECONDS
    try:
        return call_until(until, partial(_read, pid, file, line), "source")
    except (TimeoutError, RuntimeError):  # or out of threads
        return None


def _read(pid: int, file: str, line: int) -> Source | None:
    try:
        text = _text(pid, file)
        if text is None:
            return None
        lines = text.splitlines()
        loop, head = _loops(text).get(line, (Loop.NONE, 0))
        return Source(_line(lines, line), loop, _line(lines, head))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _line(lines: list[str], number: int) -> str:
    return lines[number - 1].strip()[:_LONGEST_LINE] if 0 < number <= len(lines) else ""


def _text(pid: int, file: str) -> str | None:
    # As the process sees it, which may be in a container.
    path = os.path.join(
        f"/proc/{pid}/root" if file.startswith("/") else f"/proc/{pid}/cwd", file.lstrip("/")
    )
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as opened:
        found = os.fstat(fd)
        # Never a file that the worker could not read itself, shown to it in a report.
        ours = os.stat(f"/proc/{pid}").st_uid == os.geteuid()
        if not stat.S_ISREG(found.st_mode) or not ours:
            return None
        data = opened.read(_MOST_BYTES + 1)
    return data.decode("utf-8", "replace") if len(data) <= _MOST_BYTES else None


@lru_cache(16)
def _loops(text: str) -> dict[int, tuple[Loop, int]]:
    """Map each line that is in a loop to the innermost one: its kind and its own line."""
    found: dict[int, tuple[Loop, int]] = {}
    _visit(ast.parse(text).body, None, found)
    return found


def _visit(
    nodes: Iterable[ast.AST],
    around: tuple[Loop, int] | None,
    found: dict[int, tuple[Loop, int]],
) -> None:
    for node in nodes:
        inside = around
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            inside = None
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            inside = (Loop.BOUNDED, node.lineno)
        elif isinstance(node, ast.While):
            inside = (Loop.ASKING if _only_asks(node) else Loop.WHILE, node.lineno)
        elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            inside = (Loop.BOUNDED, node.lineno)
        if isinstance(node, (ast.stmt, ast.expr)) and inside is not around:
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                if inside is None:
                    found.pop(line, None)
                else:
                    found[line] = inside
        _visit(ast.iter_child_nodes(node), inside, found)


def _only_asks(loop: ast.While) -> bool:
    nodes = list(ast.walk(loop))
    calls = [_called(node) for node in nodes if isinstance(node, ast.Call)]
    works = any(isinstance(node, ast.BinOp) and isinstance(node.op, _WORK) for node in nodes)
    return bool(calls) and not works and _ASKING_CALLS.issuperset(calls) and _has_end(loop)


def _has_end(loop: ast.While) -> bool:
    """Whether something could end it: ``while True`` needs a ``break``, ``return`` or ``raise``."""
    if not isinstance(loop.test, ast.Constant):
        return True
    return any(isinstance(node, (ast.Break, ast.Return, ast.Raise)) for node in ast.walk(loop))


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
