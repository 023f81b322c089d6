"""Have a thread run at once when it wants to, beside processes that keep every core busy.

The scheduler is fair: a thread that wakes up waits until it is its turn, and with 32 busy processes
on its core that takes a few hundred milliseconds. One that is scheduled in real time (sched(7),
``SCHED_RR``) does not wait, and may take a core from everybody else. So this is for as long as a
thread uses next to nothing: one that uses more is an ordinary one, if a favoured one, until it has
made up for it.

The threads that it starts for what may not wait either are prompt as well, up to a share of their
own. Among threads of CPython that is necessary: one that has the interpreter's lock and waits for a
core keeps the others waiting, however prompt they are.

Who may do it: a process with CAP_SYS_NICE, or with limits for it (``RLIMIT_RTPRIO``,
``RLIMIT_NICE``; systemd's ``LimitRTPRIO=1``). To everybody else nothing changes, nor to a thread
for which somebody has chosen another policy already, or started it with nice(1).
``TIMERS_REAL_TIME=off`` in the environment has it left alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from . import procfs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LOOK_NS", "Promptness"]

_EACH = 20
"""It may use the ``_EACH``-th part of a core ..."""
_SAVED_NS, _ENOUGH_NS = 1_000_000_000, 100_000_000
"""... and what it has saved, so much at most: many workers begin at once, and cost more then. One
that has used it all is prompt again when it has saved enough."""
_OTHERS_SECONDS = 0.25
"""What a thread that it starts may use."""
_FAVOURED = -10
"""The niceness of one that has used its share."""
LOOK_NS = 50_000_000
"""How often to :meth:`~Promptness.account` while there are such threads."""


class Promptness:
    """That of one thread: the one that called :meth:`begin`.

    Before it did nothing is done, nor once the system has refused, nor for any other thread.
    """

    def __init__(self) -> None:
        self.is_prompt = False
        """Whether the thread is scheduled in real time just now."""
        self.others: list[int] = []
        """Native ids of threads that are, because it was handed on to them."""
        self._thread: int | None = None
        """Which thread it is; None as long as there is none, or it may not."""
        self._was_handed_on = False
        self._at = self._used = 0
        """The last account: when, and what the thread had used by then (ns)."""
        self._saved = _SAVED_NS

    def begin(self) -> None:
        """Have the calling thread be prompt from now on, if it may. Idempotent."""
        if self._thread is not None or os.environ.get("TIMERS_REAL_TIME", "").lower() == "off":
            return
        with contextlib.suppress(OSError, AttributeError):  # this may be no Linux
            niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            if os.sched_getscheduler(0) == os.SCHED_OTHER and niceness <= 0:
                self._thread = threading.get_ident()
                self._at, self._used = time.monotonic_ns(), time.thread_time_ns()
                _favour(threading.get_native_id())
                self._set(prompt=True)

    def account(self) -> None:
        """Note what the threads have used; to be called again and again."""
        if self._thread != threading.get_ident():
            return
        now, used = time.monotonic_ns(), time.thread_time_ns()
        self._saved += (now - self._at) // _EACH - (used - self._used)
        self._saved = min(self._saved, _SAVED_NS)
        self._at, self._used = now, used
        may_be = self._saved > (0 if self.is_prompt else _ENOUGH_NS)
        if may_be != self.is_prompt:
            self._set(prompt=may_be)
        for thread in tuple(self.others):
            seconds = procfs.thread_cpu_seconds(os.getpid(), thread)
            if seconds is None or seconds > _OTHERS_SECONDS:
                self.others.remove(thread)
                with contextlib.suppress(OSError):  # it has ended
                    _schedule(thread, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK)

    @contextlib.contextmanager
    def handed_on(self) -> Iterator[None]:
        """Have threads that are started here be prompt, and what they start, to :meth:`guard`.

        Whoever starts a thread waits for it to have begun.
        """
        if not self.is_prompt or self._thread != threading.get_ident():
            yield
            return
        # Without CAP_SYS_NICE the flag is never taken back (sched(7)), and they are ordinary.
        with contextlib.suppress(OSError):
            _schedule(0, os.SCHED_RR)
            self._was_handed_on = True
        try:
            yield
        finally:
            self._set(prompt=True)

    def guard(self) -> None:
        """Have a share for the calling thread, if it is prompt, and what it starts be ordinary."""
        if self._was_handed_on and os.sched_getscheduler(0) == os.SCHED_RR:
            with contextlib.suppress(OSError):
                _favour(threading.get_native_id())
                _schedule(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK)
                self.others.append(threading.get_native_id())

    def _set(self, *, prompt: bool) -> None:
        policy = os.SCHED_RR if prompt else os.SCHED_OTHER
        try:
            _schedule(0, policy | os.SCHED_RESET_ON_FORK)
            self.is_prompt = prompt
        except OSError:
            self._thread, self.is_prompt = None, False


def _favour(thread: int) -> None:
    """Have a thread favoured where it is an ordinary one."""
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, thread) == 0:  # nobody has chosen another
            os.setpriority(os.PRIO_PROCESS, thread, _FAVOURED)


def _schedule(thread: int, policy: int) -> None:
    """Have a thread (0: the calling one) scheduled by that policy, as low as it goes."""
    lowest = os.sched_get_priority_min(policy & ~os.SCHED_RESET_ON_FORK)
    os.sched_setscheduler(thread, policy, os.sched_param(lowest))
