"""Frames without what differs by accident: install prefixes, addresses, class names, line noise.

Decision: files are compared by name, not by path. The hosts of a job may have it under different
prefixes (a container, a copy for each job); two files of one name with the same functions in the
same call chain are the rarer accident.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from timers.stacks.take import Frame

__all__ = [
    "c_frames",
    "frame_line",
    "innermost_own",
    "is_anonymous",
    "is_own",
    "is_python",
    "library_path",
    "plain_file",
    "plain_function",
    "process_frames",
    "waits_for_work",
]

_LIBRARY = re.compile(r"(?:^|.*/)(?:(?:site|dist)-packages|lib(?:32|64)?/python\d[^/]*)/(.*)")
_HOOKS = re.compile(r"(?:^|.*/)(timers/auto/_(?:blocks|groups|mpi|steps)\.py)")
"""Around calls of torch and mpi4py, in a job under ``timers run``: neither its lines nor theirs."""
_FROZEN = re.compile(r"<frozen (.+)>")
_SOURCE = re.compile(r"\.(?:py|pyw|pyx|ipynb)$|^<[^>]+>$")
_NOTEBOOK = re.compile(r"^<ipython-input-.*|.*/ipykernel_\d+/.*")
_VAGUE_NAMES = frozenset({"__init__.py", "__main__.py"})
_ADDRESS = re.compile(r"0x[0-9a-f]+|\+0?x?[0-9a-f]+$|@.*$|\.(?:cold|constprop|isra|part)(?:\.\d+)*")
_ANONYMOUS = re.compile(r"<(?:lambda|listcomp|dictcomp|setcomp|genexpr)>$")
_LOOPS = frozenset({("ray/_private/worker.py", "main_loop")})
"""Where the main thread of a pool's worker is, in C below it, until there is work."""
_MAX_CACHED = 1 << 14


def frame_line(frame: Frame) -> str:
    """Write one call as ``file:line function``, which editors and ``grep`` understand."""
    return f"{frame.file}:{frame.line} {frame.function}"


@lru_cache(_MAX_CACHED)
def library_path(file: str) -> str | None:
    """The path of a library file below where libraries are installed; None for other code."""
    if found := _FROZEN.fullmatch(file):
        return found[1]
    # Greedy: "site-packages" lies inside "lib/python3.x".
    found = _LIBRARY.fullmatch(file) or _HOOKS.fullmatch(file)
    return found[1] if found else None


@lru_cache(_MAX_CACHED)
def is_python(file: str) -> bool:
    """Whether a frame in ``file`` is a Python call, as opposed to a C one of a native stack."""
    return _SOURCE.search(file) is not None


def c_frames(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The C frames that the innermost Python call is in, the innermost first."""
    return takewhile(lambda frame: not is_python(frame.file), frames)


def is_own(frame: Frame) -> bool:
    """Whether ``frame`` is in the job's own code: Python, and not of an installed library."""
    return is_python(frame.file) and library_path(frame.file) is None


@lru_cache(_MAX_CACHED)
def plain_file(file: str) -> str:
    """``file`` without what depends on the host."""
    if _NOTEBOOK.match(file):
        return "<notebook>"
    library = library_path(file)
    if library is not None:
        return library
    *parents, name = file.rsplit("/", 2)[-2:]
    return f"{parents[0]}/{name}" if parents and name in _VAGUE_NAMES else name


@lru_cache(_MAX_CACHED)
def plain_function(function: str) -> str:
    """``function`` without its class, enclosing function, template arguments and addresses."""
    bare = _ADDRESS.sub("", function)
    if "::" in bare:
        bare = bare.split("(")[0].split("<")[0].rsplit("::", 1)[-1]
    if bare.endswith(">") and "<" in bare:  # <module>, <lambda>; but not operator>
        return bare[bare.rindex("<") :]
    return bare.rsplit(".", 1)[-1]


def is_anonymous(frame: Frame) -> bool:
    """Whether it is a lambda or comprehension, which comes and goes inside one function."""
    return _ANONYMOUS.search(frame.function) is not None


def process_frames(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """``frames`` (innermost first) without hooks, and the calls that a forked process inherited.

    A child of :mod:`multiprocessing` that was forked has the stack of its parent below its own:
    what that was doing when it forked is not what the child is doing.
    """
    frames = [frame for frame in frames if not _HOOKS.fullmatch(frame.file)] or frames
    for index, frame in enumerate(frames):
        if plain_function(frame.function) == "_bootstrap" and frame.file.endswith(
            "multiprocessing/process.py"
        ):
            # Nothing of its own further in: it is starting or ending.
            return tuple(frames[:index]) or tuple(frames[: index + 1])
    return tuple(frames)


def innermost_own(frames: Sequence[Frame]) -> Frame | None:
    """The innermost call in the job's own code, else the innermost Python call, else the first."""
    return (
        next((frame for frame in frames if is_own(frame)), None)
        or next((frame for frame in frames if is_python(frame.file)), None)
        or next(iter(frames), None)
    )


def waits_for_work(frames: Sequence[Frame]) -> bool:
    """Whether a main thread is where a pool's worker waits for its next piece of work.

    :param frames: innermost first.
    """
    inner = next((frame for frame in frames if is_python(frame.file)), None)
    if inner is None:
        return False
    return (library_path(inner.file), plain_function(inner.function)) in _LOOPS
