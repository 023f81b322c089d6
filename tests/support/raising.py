"""Raise in place of one call of the code under test, whichever it is: the n-th that is made.

A profile function (sys.setprofile) sees each call that a file of ``timers`` makes, to Python and to
C alike, in the thread that calls :meth:`Raising.armed` and in those that are started meanwhile.
What it raises comes out of that call, which has not been made then (or, with ``after``, has been).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

import timers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import FrameType

__all__ = ["Call", "Raising", "call_at", "role_of"]

_CODE = os.path.dirname(timers.__file__) + os.sep
_NOT_OURS = f"{_CODE}testing.py"
_SPARED = {"lock.__exit__", "RLock.__exit__", "lock.release", "RLock.release"}
"""Releasing a lock cannot fail for want of anything."""


class Call(NamedTuple):
    """One place in the code from which something was called."""

    role: str
    file: str
    line: int
    caller: str
    callee: str

    def __str__(self) -> str:
        return f"{self.role}: {self.callee} called by {self.caller} ({self.file}:{self.line})"


def role_of(thread: str) -> str:
    """Which kind of thread it is, by its name."""
    for role in ("reap", "dump"):
        if thread.startswith(f"timers-{role}"):
            return role
    return "server"


def call_at(role: str, frame: FrameType, event: str, arg: object) -> Call | None:
    """Which call a profile event is about; None for those that are nobody's business here.

    :param role: of the thread.
    """
    python = not event.startswith("c_")
    caller = frame.f_back if python else frame
    if caller is None:
        return None
    code = caller.f_code
    if not code.co_filename.startswith(_CODE) or code.co_filename == _NOT_OURS:
        return None
    callee = frame.f_code.co_qualname if python else getattr(arg, "__qualname__", repr(arg))
    if callee in _SPARED:
        return None
    file = code.co_filename.removeprefix(_CODE)
    return Call(role, file, caller.f_lineno, code.co_qualname, callee)


class Raising:
    """Raises ``error`` at one call.

    :param role: of which kind of thread calls are counted: ``server``, ``reap`` or ``dump``.
    :param number: which of its calls, from 1; with 0 none raises, and all are counted.
    :param after: raise when the call has returned.
    :param spared: calls to functions of these qualified names are left alone.
    """

    def __init__(
        self,
        role: str,
        number: int,
        error: Callable[[], BaseException],
        *,
        after: bool = False,
        spared: Collection[str] = (),
    ) -> None:
        self._role = role
        self._number = number
        self._error = error
        self._spared = frozenset(spared)
        self._kinds = ("return", "c_return") if after else ("call", "c_call")
        self.calls: list[Call] = []
        """Those that there were until now."""
        self.raised: Call | None = None
        """Where it raised."""
        # The interpreter lets go of a profile function that raises, even when it is about to call
        # it again (the garbage collector may have called it meanwhile): it has to live on.
        self._hook = self._see

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Count, and raise when it is time, until the block ends."""
        before, before_threads = sys.getprofile(), threading.getprofile()
        threading.setprofile(self._hook)
        sys.setprofile(self._hook)
        try:
            yield
        finally:
            sys.setprofile(before)
            threading.setprofile(before_threads)

    def _see(self, frame: FrameType, event: str, arg: object) -> None:
        if event not in self._kinds or self.raised is not None:
            return
        if role_of(threading.current_thread().name) != self._role:
            return
        call = call_at(self._role, frame, event, arg)
        if call is None or call.callee in self._spared:
            return
        self.calls.append(call)
        if len(self.calls) == self._number:
            self.raised = call
            raise self._error()
