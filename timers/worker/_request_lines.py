"""The lines of a client of ours: what it says of one acquire or release, as text of the wire.

Kept apart from how the lines travel. Everything that is the same in many lines (who sends it, the
quoted scope) is kept, because quoting costs more than all the rest of a line.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from timers.linux import procfs

from .scopes import Deadline, calling, plain_deadline

if TYPE_CHECKING:
    from ._trace_context import ScopeSpan

__all__ = ["LEAVE", "NESTED", "RequestLines"]

NESTED = ', "nested": true'
"""What marks an acquire inside another block of its scope."""
LEAVE = ', "leave": true'
"""How the marks of an acquire begin that ends an inner block."""
_MAX_CACHED = 1024
_NS = 1_000_000_000


class RequestLines:
    """Makes the lines of one process. Safe from several threads; a forked child has its own.

    The thread, the duration and the deadline come from ``expires()`` when it makes the call
    (:class:`timers.worker.scopes.Deadline`), and else from the call itself.

    What stays the same from one request to the next comes first in a line, so that neither side
    has to look at it again: this one keeps it as text, the server knows it by heart
    (:mod:`timers.transport.wire`).
    """

    def __init__(self) -> None:
        self._prefixes: dict[int, str] = {}
        """By native thread id: the start of a line, up to the scope."""
        self._scopes: dict[str, str] = {}
        """By scope: the same as JSON."""
        self._heads: dict[tuple[int, str, int, float], str] = {}
        """By thread, scope, signal and seconds: all of an acquire but its deadline."""
        self._releases: dict[tuple[int, str], bytes] = {}
        """By thread and scope: the usual release."""

    def acquire_line(self, scope_id: str, expiration_time: float, signal: int) -> bytes:
        """Say that the timer of ``scope_id`` starts, in the calling thread, as a whole line.

        :param expiration_time: wall-clock seconds since the epoch.
        :param signal: what to send to this worker on expiry.
        """
        if expiration_time.__class__ is Deadline and expiration_time.special is None:
            deadline = expiration_time
            head = self._heads.get((deadline.thread, scope_id, signal, deadline.after))
            if head is not None:
                seconds, nanoseconds = divmod(deadline.wall_ns, _NS)
                return (
                    f'{head}, "expiration_time": {seconds}.{nanoseconds:09}, '
                    f'"deadline_ns": {deadline.deadline_ns}}}\n'
                ).encode()
        _, head, marks, rest = self.acquire(scope_id, expiration_time, signal)
        return f"{head}{marks}{rest}}}\n".encode()

    def acquire(
        self, scope_id: str, expiration_time: float, signal: int
    ) -> tuple[int, str, str, str]:
        """The same in parts, as it may be told again.

        Returns the thread and, in three parts, the line without its closing brace and newline:
        its head, how it relates to other blocks of its scope (:data:`NESTED`, :data:`LEAVE` with
        its error, or nothing), and what else is known and stays the same when it is told again.

        :raises ValueError: ``expiration_time`` is not a number of seconds that a clock can show.
        """
        deadline = expiration_time
        if not isinstance(deadline, Deadline):
            deadline = plain_deadline(scope_id, expiration_time)
        marks = spans = ""
        special = deadline.special
        if special is not None:
            if special.nested:
                marks = NESTED
            elif special.leave:
                marks = LEAVE + _error(special.error)
            if special.warn_after is not None:
                spans = f', "warn_after": {special.warn_after!r}'
            if special.span is not None:
                spans += _span(special.span)
        key = (deadline.thread, scope_id, signal, deadline.after)
        head = self._heads.get(key) or self._head(key)
        rest = (
            f', "expiration_time": {float(deadline)!r}, '
            f'"deadline_ns": {deadline.deadline_ns}{spans}'
        )
        return deadline.thread, head, marks, rest

    def release_line(self, scope_id: str) -> bytes:
        """Say that the timer of ``scope_id`` of the calling thread ends, as a whole line."""
        if calling.release is None:
            line = self._releases.get((calling.native_id, scope_id))
            if line is not None:
                return line
        _, text = self.release(scope_id)
        return f"{text}}}\n".encode()

    def release(self, scope_id: str) -> tuple[int, str]:
        """The same; returns the thread, and the line without its closing brace and newline."""
        if calling.release is None:
            thread = calling.native_id
            base = self.released(thread, scope_id)
            if len(self._releases) >= _MAX_CACHED:
                self._releases.clear()
            self._releases[thread, scope_id] = f"{base}}}\n".encode()
            return thread, base
        thread, error = calling.release
        return thread, self.released(thread, scope_id) + _error(error)

    def released(self, thread: int, scope_id: str) -> str:
        """The base of a release for any thread of this process."""
        return (
            f"{self._prefixes.get(thread) or self._prefix(thread)}"
            f"{self._scopes.get(scope_id) or self._scope(scope_id)}, "
            '"expiration_time": -1, "signal": 0'
        )

    def _head(self, key: tuple[int, str, int, float]) -> str:
        if len(self._heads) >= _MAX_CACHED:
            self._heads.clear()
        thread, scope_id, signal, after = key
        head = self._heads[key] = (
            f"{self._prefixes.get(thread) or self._prefix(thread)}"
            f"{self._scopes.get(scope_id) or self._scope(scope_id)}, "
            f'"signal": {signal}, "after": {after!r}'
        )
        return head

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
