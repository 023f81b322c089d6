"""Run a command to its end: pass signals on, collect orphans, insist when asked repeatedly.

The rule for signals: what is sent to this process is meant for the command, and passed on, as if
the command had been started without us. The exceptions:

- SIGKILL and SIGSTOP, which nobody can catch; SIGTSTP, SIGTTIN and SIGTTOU, which stop this process
  (at a terminal they are sent to the command as well); SIGCHLD, which is about our own children.
- What the terminal sends, it sends to the command as well: that is not passed on.
- SIGINT, SIGTERM: a second one gives the command the grace period to end, after which it is killed
  with all that it started; a third kills at once.
- SIGHUP: handled by the caller, if it wants to (log rotation).
- SIGXCPU of the kernel, which is about the time that this process has used: ignored.
- Signals that were ignored when we were started (nohup) stay ignored, here and in the command. So
  do SIGPIPE and SIGXFSZ here, which Python ignores, and whose errors it raises.

An alarm that was set before we were started (alarm(2) outlives exec) is passed on when it comes.

What the command leaves running when it ends is left alone, as without us, unless we were asked to
end: then nothing is to be left behind, so it gets SIGTERM and, after the grace period, SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from timers.linux.process import Process
from timers.server.process_tree import ProcessTree
from timers.server.reaper import terminate

from ._child import Child, came_from_terminal, is_of_kernel, orphans
from ._end_requests import EndRequests

if TYPE_CHECKING:
    from collections.abc import Callable

END_REQUESTS = (signal.SIGINT, signal.SIGTERM)
NOT_PASSED_ON = {
    *(signal.SIGKILL, signal.SIGSTOP),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    signal.SIGCHLD,
}
_KILL_SECONDS = 2.0
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Inherit the orphans of our descendants, so that they stay our descendants (prctl(2)).

    :raises OSError: the kernel refuses; Linux before 3.4.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def block_signals() -> tuple[set[signal.Signals | int], set[signal.Signals | int]]:
    """Hold back what a :class:`Supervisor` deals with; return it and the mask before.

    To be called in the main thread before any other is started: threads inherit the mask, and a
    signal that one of them would take is lost to us.
    """
    # Otherwise children vanish when they end, and so does how they ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    passed_on = signal.valid_signals() - NOT_PASSED_ON
    wanted: set[signal.Signals | int] = {
        number for number in passed_on if signal.getsignal(number) != signal.SIG_IGN
    }
    wanted.add(signal.SIGCHLD)
    return wanted, signal.pthread_sigmask(signal.SIG_BLOCK, wanted)


class Supervisor:
    """Stays with one child until it ends. To be used by the thread that started the child.

    :param signals: what :func:`block_signals` held back.
    :param grace: seconds between a request to end and SIGKILL; see the module's description.
    :param tell: called with what the person at the terminal should know.
    :param hangup: called for a SIGHUP, in place of passing it on.
    """

    def __init__(
        self,
        child: Child,
        signals: set[signal.Signals | int],
        *,
        grace: float,
        tell: Callable[[str], None],
        hangup: Callable[[], None] | None = None,
    ) -> None:
        self._child = child
        self._signals = signals
        self._grace = grace
        self._tell = tell
        self._hangup = hangup
        self._requests = EndRequests(grace)

    def wait(self) -> int:
        """Wait for the command; return how it ended, as in ``Child.code``."""
        child = self._child
        while not child.reap():
            if self._handle_next(self._requests.deadline):
                _kill([child.pid, *orphans(child.pid)])
                self._requests.deadline = time.monotonic() + _KILL_SECONDS
        if self._requests.explain(time.monotonic()):
            self._end_the_rest()
        assert child.code is not None  # noqa: S101  # reap() said so
        return child.code

    def _end_the_rest(self) -> None:
        deadline = time.monotonic() + self._grace
        asked: set[int] = set()
        while rest := orphans(self._child.pid):
            # Who ends leaves its own children to us: they are asked in the next round.
            for pid in set(rest) - asked:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGTERM)
            asked.update(rest)
            if self._handle_next(min(deadline, self._requests.deadline)):
                _kill(rest)
                deadline = time.monotonic() + _KILL_SECONDS
            self._child.reap()

    def _handle_next(self, deadline: float) -> bool:
        """Wait for one signal and deal with it; true when the deadline passed instead."""
        seconds = max(0.0, deadline - time.monotonic())
        info = signal.sigtimedwait(self._signals, min(seconds, threading.TIMEOUT_MAX))
        if info is None:
            return True
        if info.si_signo != signal.SIGCHLD:
            self._handle(info)
        return False

    def _handle(self, info: signal.struct_siginfo) -> None:
        from_terminal = came_from_terminal(info)
        if info.si_signo in END_REQUESTS and self._requests.add(
            time.monotonic(), from_terminal=from_terminal
        ):
            self._tell("Ctrl-C once more kills the command and all that it started")
        if from_terminal and self._child.is_in_our_group():
            return
        if info.si_signo == signal.SIGXCPU and is_of_kernel(info):
            self._tell("ignores SIGXCPU: its own limit of CPU time (RLIMIT_CPU) is reached")
        elif info.si_signo == signal.SIGHUP and self._hangup is not None:
            self._hangup()
        else:
            self._child.send(info.si_signo)


def _kill(pids: list[int]) -> None:
    """SIGKILL these processes and their descendants."""
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            process = Process(pid)
            terminate(process, signal.SIGKILL, grace=_KILL_SECONDS, tree=ProcessTree())
            process.close()
