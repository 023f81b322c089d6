"""What can be fuzzed: a name, and how to try one input."""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    Try: TypeAlias = Callable[[bytes], None]
    """Tries one input; raises whatever it is that must not happen (mostly AssertionError)."""

__all__ = ["NAMES", "Target", "Try", "load"]

HERE = Path(__file__).resolve().parent

NAMES = {
    "wire": "wire_lines",
    "pipe": "pipe_bytes",
    "socket": "socket_packets",
    "http": "http_requests",
    "report": "event_files",
    "stacks": "stack_output",
    "recorder": "recorder_dumps",
    "engine": "engine_life",
}
"""Every target that takes bytes, with its module."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that is fed bytes."""

    title: str
    """What is shown of it."""
    open: Callable[[], AbstractContextManager[Try]]
    """Set up what inputs are tried on; whatever it holds is given back at the end."""
    words: tuple[str, ...] = ()
    """Files of ``words/`` with what its language consists of, for whoever makes up inputs."""
    longest: int = 8192
    """Bytes: more does not make an input more telling."""

    @property
    def word_files(self) -> list[Path]:
        """Where the words are, in the format of libFuzzer's dictionaries."""
        return [HERE / "words" / f"{name}.dict" for name in self.words]

    @property
    def tokens(self) -> list[bytes]:
        """The words."""
        return [word for path in self.word_files for word in _words(path)]


def _words(path: Path) -> list[bytes]:
    lines = path.read_text("ascii").splitlines()
    # libFuzzer's escapes (backslash, quote, hexadecimal) are among those of Python.
    return [ast.literal_eval(f"b{line}") for line in lines if line.startswith('"')]


def load(name: str) -> Target:
    """The target of that name. Imports what it tests."""
    target = importlib.import_module(f"fuzz.{NAMES[name]}").TARGET
    assert isinstance(target, Target)
    return target
