"""One child process of this process: started like an exec, and waited for without side effects.

Decision: the child stays in our process group and session. A command that talks to the terminal
(a shell, a debugger, a progress bar) keeps it, job control works on the whole, and there is nothing
to hand back when we are killed. What the terminal sends on Ctrl-C it sends to the whole group;
:func:`came_from_terminal` tells such a signal from one that somebody sent to us alone, so that
each reaches the child once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

NOT_FOUND = 127
NOT_EXECUTABLE = 126
_SI_KERNEL = 0x80
"""sigaction(2): the signal was sent by the kernel; the terminal driver is part of it."""
_OF_TERMINALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGWINCH)
_WNOTHREAD = 0x20000000
"""wait(2), __WNOTHREAD: only children of the calling thread."""


class CannotStart(Exception):  # noqa: N818  # says what is the case, like KeyError's "not found"
    """The command could not be started; ``code`` is what a shell would exit with."""

    def __init__(self, command: str, error: OSError) -> None:
        self.code = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        reason = "command not found" if self.code == NOT_FOUND else error.strerror
        super().__init__(f"{command}: {reason}")


class Child:
    """Starts ``command`` with stdin, stdout and stderr as they are.

    To be made and used by one thread, the only one of the process that has children of its own
    to keep.

    :param command: program and arguments; the program is looked for in PATH.
    :param environment: the whole of it.
    :param mask: which signals are blocked in the child.
    :raises CannotStart: there is no such program, or it cannot be executed.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        mask: Iterable[signal.Signals | int] = (),
    ) -> None:
        try:
            # Not subprocess: it forks, and this process has threads. The two signals are those
            # that Python itself ignores and subprocess restores as well.
            self.pid = os.posix_spawnp(
                command[0],
                list(command),
                environment,
                setsigmask=mask,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            raise CannotStart(command[0], error) from error
        except ValueError as error:  # an empty name
            raise CannotStart(repr(command[0]), FileNotFoundError(errno.ENOENT, "")) from error
        self.code: int | None = None
        """How it ended, as a shell would say: the exit code, 128+n for signal n; None before."""

    def reap(self) -> bool:
        """Take note of ended children; true once this one is among them. Never waits.

        As a subreaper (prctl(2)) this process inherits the orphans of the command, and nobody else
        waits for them. The kernel hands them to the first living thread, which is this one; what
        other threads started (stack tools) is theirs to wait for and is not touched.
        """
        which = os.WEXITED | os.WNOHANG | _WNOTHREAD
        with contextlib.suppress(ChildProcessError):  # there are none
            while (ended := os.waitid(os.P_ALL, 0, which)) is not None:
                if ended.si_pid == self.pid:
                    killed = ended.si_code != os.CLD_EXITED
                    self.code = ended.si_status + 128 if killed else ended.si_status
        return self.code is not None

    def is_in_our_group(self) -> bool:
        """Whether the terminal counts it among the same process group as this process."""
        try:
            return os.getpgid(self.pid) == os.getpgrp()
        except OSError:
            return False

    def send(self, number: int) -> None:
        """Send a signal. A child that has ended is not there to get it; that is fine."""
        if self.code is None:  # so the pid is still its own: nobody else waits for it
            with contextlib.suppress(OSError):
                os.kill(self.pid, number)


def orphans(child: int) -> list[int]:
    """The children of the calling thread but ``child``: what the command left to us.

    The kernel knows children by the thread that has them (proc(5), ``/proc/PID/task/TID/children``;
    needs CONFIG_PROC_CHILDREN, without which there are none to be seen).
    """
    try:
        text = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text("ascii")
    except OSError:
        return []
    return [int(pid) for pid in text.split() if int(pid) != child]


def came_from_terminal(info: signal.struct_siginfo) -> bool:
    """Whether the terminal sent it (Ctrl-C, Ctrl-backslash, a new size, a hangup).

    Then every process of the foreground group, the child included, got one of its own.
    """
    return info.si_signo in _OF_TERMINALS and is_of_kernel(info)


def is_of_kernel(info: signal.struct_siginfo) -> bool:
    """Whether no process sent it."""
    return info.si_code == _SI_KERNEL
