"""The ``timers`` command, with a timer server in which one call after the other raises, once each.

From SIGURG on, which the command leaves alone: on the server's thread every fifth of the calls that
the engine's own files make for the first time, and on a reaping thread the first that sends a
signal. Says at its end, in the file that ``TIMERS_TEST_RAISED`` names, where that was.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from observability.cli.main import main
from support.raising import call_at, role_of
from timers.server.server import WatchdogServer

if TYPE_CHECKING:
    from types import FrameType

    from support.raising import Call

_FILES = {
    *("linux/process.py", "server/watchdog.py", "server/_reaping.py", "server/reaper.py"),
    *("server/table.py", "server/_state.py", "server/workers.py", "server/statistics.py"),
}
_SPARED = {"Watchdog.apply", "Intake.apply", "Process.close", "Owned.close", "close"}
"""What has been read and is not looked at is lost; closing a descriptor cannot fail."""
_EVERY = 5


class Injected(Exception):  # noqa: N818  # it is no error of anybody's
    """What a call raises that works otherwise."""


class Saboteur:
    """A profile function (sys.setprofile) for every thread."""

    def __init__(self) -> None:
        self.armed = False
        self._seen: set[Call] = set()
        self.raised: list[Call] = []

    def arm(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        del number, frame
        self.armed = True

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if not self.armed:
            return
        role = role_of(threading.current_thread().name)
        if role == "dump" or (role == "reap" and event != "c_call"):
            return
        call = call_at(role, frame, event, arg)
        if call is None or call in self._seen or {call.caller, call.callee} & _SPARED:
            return
        if call.file in _FILES if role == "server" else call.callee == "pidfd_send_signal":
            self._seen.add(call)
            if role == "reap" or len(self._seen) % _EVERY == 0:
                self.raised.append(call)
                raise Injected(str(call))


def run() -> None:
    saboteur = Saboteur()
    once = WatchdogServer._run_watchdog

    def run_watchdog(server: WatchdogServer) -> None:
        # Again after each failure: a profile function that raises is dropped.
        sys.setprofile(saboteur)
        once(server)

    setattr(WatchdogServer, "_run_watchdog", run_watchdog)  # noqa: B010  # mypy refuses the other
    threading.setprofile(saboteur)
    signal.signal(signal.SIGURG, saboteur.arm)
    try:
        main(prog_name="timers")
    finally:
        lines = [f"{call}\n" for call in saboteur.raised]
        Path(os.environ["TIMERS_TEST_RAISED"]).write_text("".join(lines))


if __name__ == "__main__":
    run()
