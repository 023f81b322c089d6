"""The server's end of a :mod:`multiprocessing` queue."""

from __future__ import annotations

import math
import os
import queue as queues
import select
import signal as signals
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from ._elsewhere import Elsewhere
from .source import RequestQueue
from .wire import Message, Rejection, writable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from timers.worker.client import TimerRequest

__all__ = ["MultiprocessingRequestQueue", "QueueSource"]

_BATCH = 1000
"""How many requests to read at once, at least, when there are so many: more than a pipe holds."""
_READ_BYTES = 1 << 16
_SIZE = struct.Struct("!i")
_LONG_SIZE = struct.Struct("!Q")
_MOST_MS = 2**31 - 1  # poll(2) takes an int: 24.8 days
_TORN_SECONDS = 1.0
"""How long the rest of a message may take before that is reported."""
_BLIND_WAIT_SECONDS = 1.0
"""How long to wait in a queue that gives no descriptor: until then a worker's exit goes unseen."""


class MultiprocessingRequestQueue(RequestQueue):
    """A :class:`~timers.api.RequestQueue` over ``mp.Queue``, ``mp.SimpleQueue`` or a lookalike.

    :param mp_queue: this object is its only consumer.
    """

    def __init__(self, mp_queue: Any) -> None:
        super().__init__()
        self._mp_queue = mp_queue
        fd = self.fileno()
        self._pipe = None if fd is None else _QueuePipe(fd)

    def size(self) -> int:
        """Return how many requests wait; for a ``SimpleQueue``, which does not know, 1 for some."""
        if hasattr(self._mp_queue, "qsize"):
            return int(self._mp_queue.qsize())
        return int(self.held > 0 or not self._mp_queue.empty())

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when something waits; None for a manager's queue.

        Not for what is :attr:`held`, which has been read from it already.
        """
        reader = getattr(self._mp_queue, "_reader", None)
        return None if reader is None else int(reader.fileno())

    @property
    def held(self) -> int:
        """How many requests are in this process already."""
        return 0 if self._pipe is None else len(self._pipe.messages)

    @property
    def torn_bytes(self) -> int:
        """How much of a message is here that waits for its rest."""
        return 0 if self._pipe is None else self._pipe.torn_bytes

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        """Return up to ``size`` requests, waiting for them at most ``timeout`` seconds in all."""
        requests: list[TimerRequest] = []
        deadline = time.monotonic() + timeout
        while len(requests) < size:
            try:
                requests.append(self._get(max(0.0, deadline - time.monotonic())))
            except queues.Empty:
                break
        return requests

    def _get(self, timeout: float) -> TimerRequest:
        if self._pipe is None:
            return cast("TimerRequest", self._mp_queue.get(timeout > 0, timeout))
        import pickle  # noqa: PLC0415  # slow to import, and workers do without

        message = self._pipe.take(timeout)
        if message is None:
            raise queues.Empty
        if hasattr(self._mp_queue, "_sem"):  # a Queue counts what is in it
            self._mp_queue._sem.release()  # noqa: SLF001  # as its own get() does
        return cast("TimerRequest", pickle.loads(message))  # noqa: S301  # as its own get() does


class _QueuePipe:
    """The pipe of a queue, read without ever waiting for the rest of a message.

    A queue's own ``get`` waits for it: for ever when who sent it was killed in the middle, or is
    stopped there; and with it would every deadline. The format is that of
    ``multiprocessing.connection.Connection``: a size, then a pickle of so many bytes.
    """

    def __init__(self, fd: int) -> None:
        self.messages: deque[bytes] = deque()
        """Whole ones that have been read and not been taken."""
        self._fd = fd
        self._data = bytearray()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    @property
    def torn_bytes(self) -> int:
        return len(self._data)

    def take(self, timeout: float) -> bytes | None:
        """Return the next whole message; None when there is none within ``timeout`` seconds."""
        give_up = time.monotonic() + timeout
        while not self.messages:
            left = max(0.0, give_up - time.monotonic())
            if not self._poll.poll(min(left * 1000, _MOST_MS)):
                return None
            data = os.read(self._fd, _READ_BYTES)
            if not data:
                return None
            self._data += data
            self._split()
        return self.messages.popleft()

    def _split(self) -> None:
        """Move what is whole to :attr:`messages`."""
        data, start = self._data, 0
        while (found := _next_message(data, start)) is not None:
            begin, end = found
            self.messages.append(bytes(data[begin:end]))
            start = end
        del data[:start]


def _next_message(data: bytearray, start: int) -> tuple[int, int] | None:
    """Return where the message with its size at ``start`` begins and ends; None if not whole."""
    begin = start + _SIZE.size
    if len(data) < begin:
        return None
    (size,) = _SIZE.unpack_from(data, start)
    if size < 0:  # -1: more than 2 GiB, and more than fits into 31 bits
        start, begin = begin, begin + _LONG_SIZE.size
        if len(data) < begin:
            return None
        (size,) = _LONG_SIZE.unpack_from(data, start)
    end = begin + size
    return None if len(data) < end else (begin, end)


class QueueSource:
    """A multiprocessing queue as a source of the watchdog."""

    def __init__(self, queue: MultiprocessingRequestQueue) -> None:
        self._queue = queue
        self._fd = queue.fileno()
        self._elsewhere = Elsewhere(self._read) if self._fd is None else None
        """A manager's queue is asked by messages, which a manager that is stopped does not answer;
        no deadline may wait for that."""
        self._torn = (0, math.inf)
        """How much of a message there was, and when to report it."""

    def fileno(self) -> int | None:
        """Return the descriptor of the queue; None for a manager's."""
        return self._fd

    def close(self) -> None:
        """Read no more. The queue is its maker's."""
        if self._elsewhere is not None:
            self._elsewhere.close()

    def read(
        self, timeout: float, pids: Collection[int] = ()
    ) -> tuple[Sequence[Message], Sequence[Rejection]]:
        """Return the requests in the queue; waits only where it has no descriptor."""
        del pids  # everything is read in any case
        if self._elsewhere is None:
            return self._read(0.0)
        was_stuck = self._elsewhere.is_stuck
        found = self._elsewhere.within(min(timeout, _BLIND_WAIT_SECONDS))
        if found is not None:
            return found
        detail = "the process of the queue does not answer, timers that run are still kept"
        return [], [] if was_stuck else [Rejection("internal_error", detail)]

    def _read(self, wait: float) -> tuple[list[Message], list[Rejection]]:
        messages: list[Message] = []
        rejections: list[Rejection] = []
        try:
            self._take(wait, messages, rejections)
        except (OSError, EOFError) as error:  # of a manager whose process has ended
            detail = f"the queue cannot be read, timers that run are still kept: {error!r}"
            rejections.append(Rejection("internal_error", detail))
            time.sleep(wait)
        self._check_for_half_a_message(rejections)
        return messages, rejections

    def _take(self, wait: float, messages: list[Message], rejections: list[Rejection]) -> None:
        left = max(_BATCH, self._queue.size())
        # The descriptor says nothing of those that are held: they are taken whatever the number.
        while left > 0 or self._queue.held:
            left -= 1
            try:
                requests = self._queue.get(1, wait)
            except Exception as error:  # unpickling runs anything
                if self._fd is None and isinstance(error, OSError | EOFError):
                    raise
                rejections.append(Rejection("wrong_type", f"not a timer request: {error!r}"))
                continue
            if not requests:
                break
            wait = 0.0
            try:
                messages.append(_message(requests[0]))
            except (AttributeError, TypeError, ValueError, OverflowError) as error:
                rejections.append(Rejection("wrong_type", f"not a timer request: {error}"))

    def _check_for_half_a_message(self, rejections: list[Rejection]) -> None:
        torn, now = self._queue.torn_bytes, time.monotonic()
        if torn != self._torn[0]:
            self._torn = (torn, now + _TORN_SECONDS if torn else math.inf)
        elif now > self._torn[1]:
            self._torn = (torn, math.inf)  # once
            detail = (
                f"half a message ({torn} bytes) is in the queue: its sender was killed, or is "
                "stopped, in the middle of a put, which leaves the queue's lock held for all "
                "others. Running timers are still kept; new ones need another queue"
            )
            rejections.append(Rejection("wrong_type", detail))


def _message(request: Any) -> Message:
    """Check one object out of the queue; raises TypeError, ValueError or AttributeError."""
    pid, scope_id = request.worker_id, request.scope_id
    if type(pid) is not int or not isinstance(scope_id, str):
        raise TypeError(f"worker_id must be an integer and scope_id a string: {request!r}")
    expiration_time = float(request.expiration_time)
    if not expiration_time < 2**33:  # not a number, or later than anybody's calendar
        raise ValueError(f"expiration_time out of range: {request!r}")
    extras = getattr(request, "extras", {})
    return Message(pid, writable(scope_id), expiration_time, int(signals.SIGKILL), **extras)
