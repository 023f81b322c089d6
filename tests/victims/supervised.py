"""A command to be supervised; the first argument says what it does.

Reports on stdout, a line each. Most modes then wait for a line on stdin (or its end) to end.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

import timers

UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}


def say(*words: object) -> None:
    # One write, so that the lines of several processes do not mix.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def get_stuck(scope: str) -> None:
    with timers.expires(0.3, scope):
        time.sleep(1000)


def stuck(scope: str = "stuck") -> None:
    """A worker that gets stuck."""
    timers.configure_from_env()
    get_stuck(scope)


def inside(after: str = "60", number: str = "9") -> None:
    """A worker that is in a block for as long as there is no line to read."""
    timers.configure(timers.FileTimerClient(os.environ["TIMERS_FILE"], signal=int(number)))
    with timers.expires(float(after), "inside"):
        say("ready", os.getpid())
        sys.stdin.readline()


def launcher() -> None:
    """Start a worker that gets stuck, say how it ended, and wait."""
    worker = subprocess.Popen([sys.executable, __file__, "stuck"], env={**os.environ, "RANK": "3"})
    say("worker", worker.pid, worker.wait())
    sys.stdin.readline()


def environment() -> None:
    """Say what the environment has about timers."""
    for name, value in sorted(os.environ.items()):
        if name.startswith(("TIMERS_", "TORCHELASTIC_")):
            say(f"{name}={value}")
    sys.stdin.readline()


def recorder() -> None:
    """Say what the environment has about the Flight Recorder."""
    for name in (
        "TIMERS_RECORDER_DIR",
        "TORCH_FR_BUFFER_SIZE",
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE",
    ):
        say(f"{name}={os.environ[name]}")
    sys.stdin.readline()


def catch() -> None:
    """Say each signal that comes, and end on a line."""
    names = {int(number): number.name.removeprefix("SIG") for number in signal.Signals}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Not by handlers of Python's: one whose signal comes right before a wait begins runs after it.
    signal.set_wakeup_fd(writer)
    for number in signal.valid_signals() - UNCATCHABLE:
        signal.signal(number, lambda *_: None)
    say("ready", os.getpid())
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(0, select.POLLIN)
    while 0 not in (found := dict(poll.poll())):
        for each in os.read(reader, 4096) if reader in found else b"":
            say("got", names.get(each, each))


def ignore() -> None:
    """Ignore requests to end, and have a child and an orphan that do, too."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for orphaned in (False, True):
        if os.fork() == 0:
            if orphaned and os.fork():
                os._exit(0)
            say("also", os.getpid())
            while True:
                signal.pause()
    say("ready", os.getpid())
    while True:
        signal.pause()


def orphan() -> None:
    """Leave a process without its parent; say its pid and that of its new parent."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)  # until the middle one is gone
            eventual = os.getppid()
            say("orphan", os.getpid(), eventual)
            os.close(0)
            os._exit(0)
        os._exit(0)
    os.wait()
    os.write(writer, b"x")
    sys.stdin.readline()


def orphaned_worker() -> None:
    """Leave a worker without its parent; it gets stuck."""
    if os.fork() == 0:
        if os.fork() == 0:
            stuck("orphaned")
        os._exit(0)
    os.wait()
    sys.stdin.readline()


def background() -> None:
    """Leave a process running and end."""
    if os.fork() == 0:
        say("left", os.getpid())
        os.close(1)
        signal.pause()


def unwatched() -> None:
    """Say each time that a block ran, for as long as there are lines to read."""
    timers.configure_from_env()
    say("ready", os.getpid())
    for _ in sys.stdin:
        with timers.expires(60, "block"):
            say("ran")


def terminal() -> None:
    """Say whether the terminal is ours to read, read a line from it, then each signal."""
    say("foreground", os.tcgetpgrp(0) == os.getpgrp())
    say("line", sys.stdin.readline().strip())
    catch()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
