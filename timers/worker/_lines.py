"""Requests as lines of the wire (:mod:`timers.transport.wire`).

What is the same in many lines comes first and is kept as text: quoting a scope costs more than all
the rest of a line, and the server remembers how a line began as well.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import TYPE_CHECKING

from timers.linux import procfs
from timers.transport.wire import MAX_LINE_BYTES, bounded

from .slots.slot import NS

if TYPE_CHECKING:
    from .slots.request import Request

_MAX_CACHED = 1024
_SHORTEST_SECONDS = 2.2250738585072014e-308
"""No number of seconds is written with more characters."""
_LATEST_NS = 2**63 - 1
_SENT_AGAIN_BYTES = 64
"""What a message is longer by when it says how things stand."""
_quoted = lru_cache(_MAX_CACHED)(json.dumps)


class Lines:
    """Makes the lines of one process. Safe from several threads; a forked child has its own.

    :param signal: what the server is to send to this worker; may be set.
    """

    def __init__(self, signal: int) -> None:
        self.signal = signal
        self._prefixes: dict[int, str] = {}
        """By native thread id: the start of a line, up to the scope."""
        self._heads: dict[tuple[int, str, int, float], str] = {}
        """By thread, scope, signal and seconds: all of an acquire but its deadline."""
        self._releases: dict[tuple[int, str], bytes] = {}
        """By thread and scope: the usual release."""

    def check(self, thread: int, scope: str) -> None:
        """Check that every message of ``scope`` will have room, the end of a block above all.

        :raises RequestTooLargeError: it is too long.
        """
        longest = self.acquire(thread, scope, _SHORTEST_SECONDS, _LATEST_NS, _LATEST_NS)
        if len(longest) > MAX_LINE_BYTES - _SENT_AGAIN_BYTES:
            bounded(longest.ljust(MAX_LINE_BYTES + 1))  # raises, with the reason

    def acquire(
        self, thread: int, scope: str, after: float, wall_ns: int, deadline_ns: int
    ) -> bytes:
        """Return the line of a plain block."""
        head = self._heads.get((thread, scope, self.signal, after)) or self._head(
            thread, scope, after
        )
        seconds, nanoseconds = divmod(wall_ns, NS)
        wall = f"{seconds}.{nanoseconds:09}"
        return f'{head}, "expiration_time": {wall}, "deadline_ns": {deadline_ns}}}\n'.encode()

    def release(self, thread: int, scope: str) -> bytes:
        """Return the line of its end."""
        line = self._releases.get((thread, scope))
        if line is None:
            if len(self._releases) >= _MAX_CACHED:
                self._releases.clear()
            line = self._releases[thread, scope] = f"{self._stop(thread, scope)}}}\n".encode()
        return line

    def encode(self, request: Request) -> bytes:
        """Return the line of any request."""
        thread, scope = request.thread, request.scope_id
        if request.is_release:
            text = self._stop(thread, scope)
        else:
            key = (thread, scope, self.signal, request.after)
            text = self._heads.get(key) or self._head(thread, scope, request.after)
        if request.nested:
            text += ', "nested": true'
        if request.leave:
            text += ', "leave": true'
        if not request.is_release:
            text += f', "expiration_time": {request.expiration_time!r}'
            text += f', "deadline_ns": {request.deadline_ns}'
        if request.missed is not None:
            text += f', "missed": [{request.missed[0]}, {request.missed[1]}]'
        more = ""
        if request.error is not None:
            more += f', "error": {json.dumps(request.error)}'
        if request.warn_after is not None:
            more += f', "warn_after": {request.warn_after!r}'
        if request.span is not None:
            span = request.span
            more += f', "traceparent": "{span.traceparent}", "span_id": "{span.span_id}"'
        line = f"{text}{more}}}\n".encode()
        # A timer that stops without a reason is better than one that does not stop.
        return line if len(line) <= MAX_LINE_BYTES else f"{text}}}\n".encode()

    def event(self, request: Request, elapsed_ns: int | None) -> bytes:
        """Return the line that says for a log what the board has counted.

        :param elapsed_ns: how long the block took; None for one that was entered.
        """
        text = self.encode(request).decode()[:-2]
        took = "" if elapsed_ns is None else f', "took": {elapsed_ns / NS!r}'
        return f'{text}, "board": true{took}}}\n'.encode()

    def _stop(self, thread: int, scope: str) -> str:
        return f'{self._start(thread, scope)}, "expiration_time": -1, "signal": 0'

    def _head(self, thread: int, scope: str, after: float) -> str:
        if len(self._heads) >= _MAX_CACHED:
            self._heads.clear()
        head = f'{self._start(thread, scope)}, "signal": {self.signal}, "after": {after!r}'
        self._heads[thread, scope, self.signal, after] = head
        return head

    def _start(self, thread: int, scope: str) -> str:
        prefix = self._prefixes.get(thread)
        if prefix is None:
            if len(self._prefixes) >= _MAX_CACHED:
                self._prefixes.clear()
            pid = os.getpid()
            start_time = procfs.start_time(pid)
            known = "" if start_time is None else f'"start_time": {start_time}, '
            prefix = f'{{"version": 1, "pid": {pid}, {known}"thread": {thread}, "scope_id": '
            self._prefixes[thread] = prefix
        return prefix + _quoted(str(scope))
