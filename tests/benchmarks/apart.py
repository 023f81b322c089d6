"""Functions called in a process of their own, so that nothing else is in their way or figures."""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

__all__ = ["CONTEXT", "in_child", "running"]

T = TypeVar("T")

CONTEXT: Any = multiprocessing.get_context("spawn")
"""Fresh interpreters; a fork would bring along whatever was loaded and collected here."""


def in_child(function: Callable[..., T], *arguments: Any) -> T:
    """Return what ``function(*arguments)`` returns in a new process.

    :raises RuntimeError: it raised there (with its traceback), or the process died.
    """
    with running(_answer, function, arguments) as connection:
        try:
            answer, error = connection.recv()
        except EOFError:
            raise RuntimeError(f"the process of {function.__qualname__} died") from None
    if error is not None:
        raise RuntimeError(f"{function.__qualname__} failed in its process:\n{error}")
    found: T = answer
    return found


@contextlib.contextmanager
def running(function: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Run ``function(connection, *arguments)`` in a new process, killed when the block ends."""
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=function, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        process.kill()
        process.join()
        here.close()


def _answer(connection: Connection, function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
    try:
        answer: tuple[T | None, str | None] = (function(*arguments), None)
    except Exception:  # noqa: BLE001  # told to the parent
        answer = (None, traceback.format_exc())
    connection.send(answer)
    connection.recv()  # what the parent made of it is not our business: wait to be ended
