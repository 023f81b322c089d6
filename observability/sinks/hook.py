"""A command of the user's own that is given each hang report: a message, an alert, a ticket."""

from __future__ import annotations

import json
import os
import select
import signal
from typing import TYPE_CHECKING

from observability.events import HangReported
from observability.fields import to_fields
from observability.untrusted import this_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.events import Event

__all__ = ["HOOK_SECONDS", "HangHook"]

HOOK_SECONDS = 10.0
"""Bound of one call of the command; what it started then is killed with it."""


class HangHook:
    """A sink that runs ``command`` for each hang report, with the report on its standard input.

    The report is one JSON object: the fields of the event ``hang report`` with its ``message``, and
    ``report``, where more is to be found.

    :param command: for ``/bin/sh -c``, with the environment of this process.
    :param run_id: for reports that carry none.
    :param where: returns where more is to be found.
    :param seconds: how long one call may take.
    """

    name = "on_hang"

    def __init__(
        self,
        command: str,
        *,
        run_id: str = "",
        where: Callable[[], str] = str,
        seconds: float = HOOK_SECONDS,
    ) -> None:
        self._command = command
        self._run_id = run_id
        self._where = where
        self._seconds = seconds

    def __call__(self, event: Event) -> None:
        """Run the command for a hang report; wait for its end.

        :raises OSError: it could not be started, did not end in time, or failed: counted among the
            errors of this sink.
        """
        if not isinstance(event, HangReported) or not event.counts:
            return
        fields = to_fields(event, run_id=self._run_id, host=this_host())
        fields |= {"report": self._where()}
        self._run(json.dumps(fields).encode() + b"\n")

    def _run(self, data: bytes) -> None:
        # A file in memory: no pipe has to be filled while the command does not read.
        given = os.memfd_create("timers-hang-report")
        try:
            os.write(given, data)
            os.lseek(given, 0, os.SEEK_SET)
            # Not subprocess: it would hand down the signals that "timers run" holds back.
            pid = os.posix_spawn(
                "/bin/sh",
                ["/bin/sh", "-c", self._command],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, given, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                ],
                setpgroup=0,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        finally:
            os.close(given)
        in_time = _ends(pid, self._seconds)
        if not in_time:
            os.killpg(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if not in_time:
            raise TimeoutError(f"--on-hang did not end within {self._seconds:g} s and was killed")
        if code != 0:
            how = f"signal {-code} ended it" if code < 0 else f"it exited with {code}"
            raise OSError(f"--on-hang failed: {how}")


def _ends(pid: int, seconds: float) -> bool:
    """Wait for the end of a child for so long; it is left to be reaped."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)
