"""Read on a thread of its own from what may never answer, so that who reads is never held up."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_ANSWER_SECONDS = 2.0
"""How long an answer may take beyond what it was asked to wait: a release may be in it, of a timer
that would expire otherwise. Whoever has taken longer once is not waited for again."""
_END_SECONDS = 2.0


class Elsewhere(Generic[T]):
    """Calls ``read(seconds)`` on a daemon thread, which is started by the first use.

    :param read: waits for up to so many seconds, unless whoever it asks is stopped; never raises.

    For one thread.
    """

    def __init__(self, read: Callable[[float], T]) -> None:
        self._read = read
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._asked: float | None = None
        """How long the call may wait that is under way, or is to be made."""
        self._answers: list[T] = []
        self._closed = False
        self.is_stuck = False
        """Whether the last call has taken too long, and has not returned."""

    def within(self, seconds: float) -> T | None:
        """Return what ``read(seconds)`` returns; None when that takes too long.

        What comes of it in the end is what the next call returns.

        :raises RuntimeError: no thread can be started.
        """
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="timers-queue", daemon=True)
                thread.start()
                self._thread = thread
            if self._asked is None and not self._answers:
                self._asked = seconds
                self._changed.notify_all()
            patience = 0.0 if self.is_stuck else _ANSWER_SECONDS
            self._changed.wait_for(lambda: self._answers, seconds + patience)
            self.is_stuck = not self._answers
            return None if self.is_stuck else self._answers.pop()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._asked is not None)
                seconds = self._asked
                if self._closed or seconds is None:
                    return
            answer = self._read(seconds)
            with self._changed:
                self._answers.append(answer)
                self._asked = None
                self._changed.notify_all()

    def close(self) -> None:
        """End the thread, unless it is stuck: then it ends when it is not any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and not self.is_stuck:
            self._thread.join(_END_SECONDS)
