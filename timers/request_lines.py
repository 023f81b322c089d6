"""The lines of a client of ours: what it says of one acquire or release, as text of the wire.

Kept apart from how the lines travel. Everything that is the same in many lines (who sends it, the
quoted scope) is kept, because quoting costs more than all the rest of a line.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING

from . import procfs
from .scopes import calling

if TYPE_CHECKING:
    from .trace_context import ScopeSpan

__all__ = ["LEAVE", "NESTED", "RequestLines"]

NESTED = ', "nested": true'
"""What marks an acquire inside another block of its scope."""
LEAVE = ', "leave": true'
"""How the marks of an acquire begin that ends an inner block."""
_MAX_CACHED = 1024


class RequestLines:
    """Makes the lines of one process. Safe from several threads; a forked child has its own.

    The thread, the duration and the deadline come from ``expires()`` when it makes the call, and
    else from the call itself (:data:`timers.scopes.calling`).
    """

    def __init__(self) -> None:
        self._prefixes: dict[int, str] = {}
        """By native thread id: the start of a line, up to the scope."""
        self._scopes: dict[str, str] = {}
        """By scope: the same as JSON."""

    def acquire(
        self, scope_id: str, expiration_time: float, signal: int
    ) -> tuple[int, str, str, str]:
        """Say that the timer of ``scope_id`` starts, in the calling thread.

        Returns the thread and, in three parts, the line without its closing brace and newline:
        its base, how it relates to other blocks of its scope (:data:`NESTED`, :data:`LEAVE` with
        its error, or nothing), and what else is known and stays the same when it is told again.

        :param expiration_time: wall-clock seconds since the epoch.
        :param signal: what to send to this worker on expiry.
        """
        announced = calling.announcement
        marks = rest = ""
        if announced is not None and announced.expiration_time == expiration_time:
            thread, after, deadline_ns = announced.thread, announced.after, announced.deadline_ns
            if announced.nested:
                marks = NESTED
            elif announced.leave:
                marks = LEAVE + _error(announced.error)
            if announced.span is not None:
                rest = _span(announced.span)
            if announced.warn_after is not None:
                rest += f', "warn_after": {announced.warn_after!r}'
        else:
            expiration_time = float(expiration_time)
            thread = threading.get_native_id()
            after = max(0.0, expiration_time - time.time())
            deadline_ns = time.monotonic_ns() + int((expiration_time - time.time()) * 1e9)
        base = (
            f"{self._prefixes.get(thread) or self._prefix(thread)}"
            f"{self._scopes.get(scope_id) or self._scope(scope_id)}, "
            f'"expiration_time": {expiration_time!r}, "signal": {signal}, '
            f'"deadline_ns": {max(0, deadline_ns)}, "after": {after!r}'
        )
        return thread, base, marks, rest

    def release(self, scope_id: str) -> tuple[int, str]:
        """Say that the timer of ``scope_id`` of the calling thread ends.

        Returns the thread, and the line without its closing brace and newline.
        """
        announced = calling.announcement
        marks = ""
        if announced is not None and announced.expiration_time < 0:
            thread = announced.thread
            marks = _error(announced.error)
        else:
            thread = threading.get_native_id()
        return thread, self.released(thread, scope_id) + marks

    def released(self, thread: int, scope_id: str) -> str:
        """The base of a release for any thread of this process."""
        return (
            f"{self._prefixes.get(thread) or self._prefix(thread)}"
            f"{self._scopes.get(scope_id) or self._scope(scope_id)}, "
            '"expiration_time": -1, "signal": 0'
        )

    def _prefix(self, thread: int) -> str:
        if len(self._prefixes) >= _MAX_CACHED:
            self._prefixes.clear()
        pid = os.getpid()
        start_time = procfs.start_time(pid)
        known = "" if start_time is None else f'"start_time": {start_time}, '
        prefix = f'{{"version": 1, "pid": {pid}, {known}"thread": {thread}, "scope_id": '
        self._prefixes[thread] = prefix
        return prefix

    def _scope(self, scope_id: str) -> str:
        if len(self._scopes) >= _MAX_CACHED:
            self._scopes.clear()
        quoted = self._scopes[scope_id] = json.dumps(str(scope_id))
        return quoted


def _span(span: ScopeSpan) -> str:
    return f', "traceparent": "{span.traceparent}", "span_id": "{span.span_id}"'


def _error(name: str | None) -> str:
    return "" if name is None else f', "error": {json.dumps(name)}'
