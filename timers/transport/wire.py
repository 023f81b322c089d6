"""The wire of the named pipe: one JSON object a line, torch's version 1 with optional extras.

::

    {"version": 1, "pid": 1870, "scope_id": "x", "expiration_time": 1795141628.03, "signal": 9}
    {"version": 1, "pid": 1870, "scope_id": "x", "expiration_time": -1, "signal": 0}

torch's reader takes ``pid``, ``scope_id``, ``expiration_time`` and ``signal`` and ignores the
rest, so everything we add is one more key, optional on arrival:

=============== ======= ====================================================================
key             type    meaning
=============== ======= ====================================================================
``start_time``  integer clock ticks after boot at which the sender began (proc(5)): identifies it
``thread``      integer native id of the thread that entered the scope
``deadline_ns`` integer CLOCK_MONOTONIC nanoseconds at which the timer expires
``after``       number  seconds that the worker asked for
``nested``      boolean on an acquire: the block is inside another one of the same scope
``leave``       boolean on an acquire: it ends an inner block of the same scope, and restarts
                        the countdown of the block around it
``warn_after``  number  seconds after which the block deserves a warning
``error``       string  on a release (or leave): type name of the exception that left the block
``traceparent`` string  W3C Trace Context of the worker's span
``span_id``     string  16 hexadecimal digits: the id that the span of the scope shall have
``missed``      array   two integers: the line says how things stand rather than what happened,
                        and stands for so many acquires and releases that were not sent
``board``       boolean over the socket: the block is counted and kept on a board, and the line
                        is for logs and spans alone
``took``        number  of such a block, when it was left: how many seconds it took
=============== ======= ====================================================================

A line has at most :data:`MAX_LINE_BYTES` bytes with its newline, so that one write of it is
atomic (pipe(7), PIPE_BUF). Whatever is not such a line costs that line and nothing else.
"""

from __future__ import annotations

import json
import math
import re
import select
from json.scanner import make_scanner
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from timers.errors import RequestTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BOARD",
    "MAX_LINE_BYTES",
    "VERSION",
    "WAKE",
    "Decoder",
    "Message",
    "Rejection",
    "bounded",
    "request_json",
    "writable",
]

VERSION = 1
MAX_LINE_BYTES: int = getattr(select, "PIPE_BUF", 4096)
"""The longest line, its newline included (pipe(7): a larger write may be interleaved)."""

BOARD = b"board 1\n"
"""Over the socket: comes with the descriptor of a board (:mod:`timers.transport.board`)."""
WAKE = b"wake\n"
"""Over the socket: something on the sender's board is due before the server's next look."""

_MAX_PID = 2**31 - 1  # pid_t is a signed 32-bit integer
_MAX_SIGNAL = 64  # signal(7): the last real-time signal
_MAX_NS = 2**63 - 1  # struct timespec cannot hold more
_MAX_SECONDS = _MAX_NS // 10**9
_MAX_MISSED = 2**31 - 1
_SHOWN_CHARACTERS = 200
_OBJECT_START = b'{"version"'
_ORDINARY_BYTES = 512
"""Longer lines are not cached; ours have about 200."""
_NUMBERS = ', "expiration_time": '
"""Where the head of an acquire ends and its numbers begin, as our clients write it."""
_plain = re.compile(r'([1-8][0-9]{0,9}\.[0-9]{1,9}), "deadline_ns": ([1-9][0-9]{0,17})\}').fullmatch
"""Numbers that JSON and Python read alike, and that are within every bound."""


class Message(NamedTuple):
    """One valid request, from whatever transport."""

    pid: int
    scope_id: str
    expiration_time: float
    """Wall-clock seconds; negative is a release."""
    signal: int
    deadline_ns: int | None = None
    start_time: int | None = None
    thread: int | None = None
    after: float | None = None
    nested: bool = False
    leave: bool = False
    error: str | None = None
    traceparent: str | None = None
    span_id: str | None = None
    warn_after: float | None = None
    missed: tuple[int, int] | None = None
    """None for what happens now. From a client that says how things stand: how many acquires and
    releases of this scope it has not sent before."""
    board: bool = False
    """Whether this is for logs and spans alone, of a block that the board counts and keeps."""
    took: float | None = None
    """Of such a block, when it was left: how many seconds it took."""


_new = tuple.__new__
"""Makes a message of a tuple, without the cost of its signature."""


class Rejection(NamedTuple):
    """One line that was refused."""

    reason: str
    """One of :data:`timers.server.statistics.REJECTION_REASONS`."""
    detail: str


class _BadRequest(ValueError):  # noqa: N818  # never leaves this module
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def request_json(pid: int, scope_id: str, expiration_time: float, signal: int) -> str:
    """Return the five keys of torch's format, byte for byte as torch writes them; no newline."""
    return json.dumps(
        {
            "version": VERSION,
            "pid": pid,
            "scope_id": scope_id,
            "expiration_time": expiration_time,
            "signal": signal,
        }
    )


def bounded(line: bytes) -> bytes:
    """Return ``line``, or raise :class:`RequestTooLargeError` when one write might not take it.

    Differs from torch: the newline counts; torch lets 4097 bytes pass.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RequestTooLargeError(
            f"a timer request of {len(line)} bytes does not fit into {MAX_LINE_BYTES} bytes, the "
            f"most that a pipe takes at once; use a shorter scope: {line[:_SHOWN_CHARACTERS]!r}..."
        )
    return line


def writable(text: str) -> str:
    """Return ``text`` as UTF-8 can hold it.

    A lone surrogate (from a file name that is not UTF-8) could not be written anywhere: to no log
    and to no page of metrics.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


class Decoder:
    """Turns the bytes of a pipe, however they are cut, into messages and rejections.

    One decoder a pipe; not thread-safe. It never raises, whatever it is fed, and never holds more
    than one unfinished line.

    The same worker says nearly the same again and again. What has once been found good is
    remembered: whole lines (releases are all alike) and heads of lines, up to the two numbers at
    the end of an acquire of our clients. What a line means never depends on that: a known head is
    completed only by numbers of the plainest form, and everything else is parsed.

    :param most_known: how many lines and how many heads, of ordinary length, are remembered.
    """

    def __init__(self, most_known: int = 2000) -> None:
        self._most_known = most_known
        self.rest = b""
        """What came after the last whole line, of which nobody has been told."""
        # The scanner below json.loads: the same grammar without the cost of its front end, which
        # is more than the parsing of a line as short as ours.
        self._scan: Callable[[str, int], tuple[Any, int]] = make_scanner(
            cast("Any", json.JSONDecoder(parse_constant=_no_constant))
        )
        self._lines: dict[str, Message] = {}
        self._heads: dict[str, tuple[tuple[Any, ...], int, tuple[Any, ...]]] = {}
        """What comes before the expiration time in a message, the signal, and what comes after
        the deadline."""

    def feed(self, data: bytes) -> tuple[list[Message], list[Rejection]]:
        """Take bytes as they were read; return what the lines completed by them say."""
        messages: list[Message] = []
        rejections: list[Rejection] = []
        if self.rest:
            data = self.rest + data
        end = data.rfind(b"\n") + 1
        # A line that is already too long needs only its tail, where a good one may begin. One
        # byte more than fits marks it as too long until its end is found.
        self.rest = data[end:][-(MAX_LINE_BYTES + 1) :]
        if end:
            self._decode_lines(data[: end - 1], messages, rejections)
        return messages, rejections

    def close(self) -> list[Rejection]:
        """Return what is left, an unfinished last line, as refused."""
        rest, self.rest = self.rest, b""
        return [Rejection("not_json", f"unfinished line: {_shown(rest)}")] if rest else []

    def _decode_lines(
        self, data: bytes, messages: list[Message], rejections: list[Rejection]
    ) -> None:
        try:
            text = data.decode("ascii")
        except UnicodeDecodeError:
            for other in data.split(b"\n"):
                self._line(other, messages, rejections)
            return
        known, heads, append = self._lines, self._heads, messages.append
        for line in text.split("\n"):
            message = known.get(line)
            if message is not None:
                append(message)
                continue
            begin, _, numbers = line.partition(_NUMBERS)
            head = heads.get(begin)
            if head is not None:
                found = _plain(numbers)
                if found is not None:
                    seconds, nanoseconds = found.groups()
                    numbers_read = (float(seconds), head[1], int(nanoseconds))
                    append(_new(Message, head[0] + numbers_read + head[2]))
                    continue
            try:
                append(self._parse(line, begin, numbers))
            except (ValueError, StopIteration, RecursionError):
                self._line(line.encode(), messages, rejections)

    def _parse(self, line: str, begin: str, numbers: str) -> Message:
        """Parse one line, and remember what may come again; raises when it is not a good one."""
        if len(line) >= MAX_LINE_BYTES:
            raise ValueError  # the slow path says why
        value, end = self._scan(line, 0)
        if end != len(line):
            raise ValueError  # as above
        message = _message(value)
        if len(line) > _ORDINARY_BYTES:
            return message
        if message.expiration_time < 0:
            if len(self._lines) >= self._most_known:
                self._lines.clear()
            self._lines[line] = message
        elif _plain(numbers):
            # It is a good line, so the mark is neither inside a string, which its quotes would have
            # ended, nor inside another object, which would not be closed; and of two equal keys
            # the last one counts.
            if len(self._heads) >= self._most_known:
                self._heads.clear()
            self._heads[begin] = (message[:2], message.signal, message[5:])
        return message

    def _line(self, line: bytes, messages: list[Message], rejections: list[Rejection]) -> None:
        try:
            messages.append(self._decode(line))
        except _BadRequest as error:
            rejections.append(Rejection(error.reason, f"{error}: {_shown(line)}"))
        else:
            return
        # A writer that died in the middle of a line leaves its half in front of the next writer's
        # line. That one is whole, and must not be lost.
        start = line.rfind(_OBJECT_START)
        if start > 0:
            try:
                messages.append(self._decode(line[start:]))
            except _BadRequest:
                return  # the line has been counted

    def _decode(self, line: bytes) -> Message:
        if len(line) >= MAX_LINE_BYTES:
            raise _BadRequest("too_long", f"longer than {MAX_LINE_BYTES} bytes")
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise _BadRequest("not_utf8", "not UTF-8") from None
        if not text:
            raise _BadRequest("empty", "an empty line")
        try:
            value, end = self._scan(text, 0)
        except (ValueError, StopIteration, RecursionError):
            raise _BadRequest("not_json", "not JSON") from None
        if end != len(text):
            raise _BadRequest("not_json", "more than one JSON value in a line")
        return _message(value)


def _shown(line: bytes) -> str:
    return repr(line[:_SHOWN_CHARACTERS].decode("utf-8", "replace"))


def _message(value: Any) -> Message:  # noqa: C901, PLR0912  # flat, and the hot path
    """Check one JSON value; raises :class:`_BadRequest`. Ordered for the hot path."""
    if type(value) is not dict:
        raise _BadRequest("not_an_object", "not a JSON object")
    try:
        pid = value["pid"]
        scope_id = value["scope_id"]
        expiration_time = value["expiration_time"]
        signal = value["signal"]
    except KeyError as missing:
        raise _BadRequest("missing_key", f"no key {missing}") from None
    if value.get("version", VERSION) != VERSION:
        raise _BadRequest("unsupported_version", f"version is not {VERSION}")
    # type() rather than isinstance(): true is not a pid.
    if type(pid) is not int or type(signal) is not int or type(scope_id) is not str:
        raise _BadRequest("wrong_type", "pid and signal are integers, scope_id is a string")
    if type(expiration_time) is not float and type(expiration_time) is not int:
        raise _BadRequest("wrong_type", "expiration_time is a number of seconds")
    if not -_MAX_PID <= pid <= _MAX_PID or not -_MAX_SIGNAL <= signal <= _MAX_SIGNAL:
        raise _BadRequest("out_of_range", "pid or signal out of range")
    if not -math.inf < expiration_time < _MAX_SECONDS:
        raise _BadRequest("out_of_range", "expiration_time out of range")
    if not scope_id.isascii():
        scope_id = writable(scope_id)
    if len(value) == 4 + ("version" in value):  # torch's keys: no extras
        return Message(pid, scope_id, expiration_time, signal)
    get = value.get
    start_time, thread, deadline_ns = get("start_time"), get("thread"), get("deadline_ns")
    after, nested, leave = get("after"), get("nested", False), get("leave", False)
    error, traceparent, span_id = get("error"), get("traceparent"), get("span_id")
    warn_after, missed = get("warn_after"), get("missed")
    board, took = get("board", False), get("took")
    if (
        (start_time is not None and type(start_time) is not int)
        or (thread is not None and type(thread) is not int)
        or (deadline_ns is not None and type(deadline_ns) is not int)
        or (after is not None and type(after) is not float and type(after) is not int)
        or (
            warn_after is not None and type(warn_after) is not float and type(warn_after) is not int
        )
        or type(nested) is not bool
        or type(leave) is not bool
        or type(board) is not bool
        or (took is not None and type(took) is not float and type(took) is not int)
        or (error is not None and type(error) is not str)
        or (traceparent is not None and type(traceparent) is not str)
        or (span_id is not None and type(span_id) is not str)
    ):
        raise _BadRequest("wrong_type", "an optional key has the wrong type")
    if (
        not 0 <= (deadline_ns or 0) <= _MAX_NS
        or not 0 <= (start_time or 0) <= _MAX_NS
        or not 0 <= (thread or 0) <= _MAX_PID
        or not 0 <= (after or 0) < _MAX_SECONDS
        or not 0 <= (warn_after or 0) < _MAX_SECONDS
        or not 0 <= (took or 0) < _MAX_SECONDS
    ):
        raise _BadRequest("out_of_range", "a number of an optional key is out of range")
    if error is not None:
        error = writable(error)[:_SHOWN_CHARACTERS]
    if missed is not None:
        missed = _missed(missed)
    return Message(
        pid,
        scope_id,
        expiration_time,
        signal,
        deadline_ns,
        start_time,
        thread,
        after,
        nested,
        leave,
        error,
        traceparent,
        span_id,
        warn_after,
        missed,
        board,
        took,
    )


def _missed(value: Any) -> tuple[int, int]:
    if type(value) is not list or [type(count) for count in value] != [int, int]:
        raise _BadRequest("wrong_type", "missed is an array of two integers")
    acquires, releases = value
    if not 0 <= acquires <= _MAX_MISSED or not 0 <= releases <= _MAX_MISSED:
        raise _BadRequest("out_of_range", "missed out of range")
    return acquires, releases
