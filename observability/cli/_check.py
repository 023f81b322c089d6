"""``timers check``: find out whether all that a reap needs works here, for this user.

Each check is independent, takes a few seconds at most, and leaves nothing behind. A failure means
that a stuck worker would not be ended as promised; a warning, that it would be ended with less
known about it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from observability.explain.permission import tracing_advice
from timers import FileTimerServer
from timers.events import StackDumped, TimerExpired, WorkerKilled
from timers.linux import procfs
from timers.server.reaper import ReapPolicy
from timers.stacks import tools as stack_tools
from timers.stacks.take import take
from timers.testing import RecordingObserver

if TYPE_CHECKING:
    from collections.abc import Callable

    from observability.http.address import Address

VICTIM_SECONDS = 30.0
_LATE_SECONDS = 0.25
_VICTIM = """
import timers, sys, time
timers.configure(timers.FileTimerClient(sys.argv[1]))
def is_stuck_on_purpose():
    time.sleep(1000)
with timers.expires(0.3, "timers check"):
    is_stuck_on_purpose()
"""
_EXTRAS = {
    "otel": ("opentelemetry-sdk", "spans (extra 'otel')"),
    "torch": ("torch", "the torchrun example (extra 'torch')"),
    "pystack": ("pystack", "a second way to take stacks"),
}


class Result(NamedTuple):
    """What one check found."""

    status: str
    """``ok``, ``warning``, ``failed``, or ``-`` for what is only said."""
    message: str
    advice: str = ""
    """What to do about it."""


def check_all(address: Address | None) -> dict[str, Result]:
    """Run every check, by name. Never raises for what is wrong with the machine.

    :param address: where HTTP would be served; None for nowhere.
    """
    checks: list[tuple[str, Callable[[], Result]]] = [
        ("platform", _platform),
        ("py-spy", _py_spy),
        ("http", lambda: _port(address)),
        ("rehearsal", _rehearsal),
        *((name, lambda name=name: _extra(name)) for name in _EXTRAS),
    ]
    return {name: _guarded(check) for name, check in checks}


def _guarded(check: Callable[[], Result]) -> Result:
    try:
        return check()
    except Exception as error:  # noqa: BLE001  # a check that fails is a finding, not an accident
        return Result("failed", f"{type(error).__name__}: {error}")


def _platform() -> Result:
    what = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    if sys.platform != "linux":
        return Result("failed", what, "use Linux")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return Result(
            "warning",
            f"{what}: no pidfd ({error.strerror})",
            "Linux 5.3 or later, and a container runtime that lets pidfd_open(2) through",
        )
    if procfs.stat(os.getpid()) is None:
        return Result("failed", "/proc cannot be read", "mount /proc")
    return Result("ok", what)


def _py_spy() -> Result:
    path, missing = stack_tools.find("py-spy", "TIMERS_PY_SPY")
    if path is None:
        return Result("warning", str(missing), str(missing))
    with subprocess.Popen(
        [sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(1000)"],
        stdout=subprocess.PIPE,
    ) as victim:
        try:
            assert victim.stdout is not None  # noqa: S101  # it is a pipe
            victim.stdout.readline()
            dump = take(victim.pid)
        finally:
            victim.kill()
    if dump.method == "py-spy":
        return Result("ok", f"{path}: {dump.seconds * 1000:.0f} ms")
    return Result("warning", (dump.error or "no stack").splitlines()[0], tracing_advice())


def _port(address: Address | None) -> Result:
    if address is None:
        return Result("-", "off")
    try:
        family, _, _, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )[0]
        socket.create_server(target[:2], family=family).close()
    except OSError as error:
        return Result(
            "warning",
            f"{address}: {error.strerror or error}",
            "name a free address with --http; 'timers run' without it takes another port",
        )
    return Result("ok", f"{address} is free")


def _rehearsal() -> Result:
    """A real worker, really stuck, really reaped."""
    recorder = RecordingObserver()
    with tempfile.TemporaryDirectory(prefix="timers-check-") as directory:
        path = os.path.join(directory, "timers.pipe")
        server = FileTimerServer(
            path,
            "timers check",
            observer=recorder,
            before_kill=lambda _, expired_timers: {pid: take(pid) for pid in expired_timers},
            policy=ReapPolicy(descendants_of=os.getpid()),
        )
        server.start()
        victim = subprocess.Popen([sys.executable, "-c", _VICTIM, path], stdin=subprocess.DEVNULL)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                victim.wait(VICTIM_SECONDS)
        finally:
            victim.kill()
            code = victim.wait()
            server.stop()  # which sees the reap through
    return _judge(recorder, code)


def _judge(recorder: RecordingObserver, code: int) -> Result:
    expired = next(iter(recorder.of(TimerExpired)), None)
    dumped = next(iter(recorder.of(StackDumped)), None)
    if expired is None or not recorder.of(WorkerKilled) or code != -signal.SIGKILL:
        return Result(
            "failed",
            f"a stuck worker was not reaped within {VICTIM_SECONDS:g} s (it exited with {code});"
            f" events: {', '.join(recorder.names) or 'none'}",
            "see the other checks; a worker must share the user and the /proc of its server",
        )
    late = expired.lateness_seconds
    reaped = f"a stuck worker was reaped {late * 1000:.1f} ms after its deadline"
    if dumped is None or "is_stuck_on_purpose" not in dumped.dump.render():
        why = dumped.dump.error if dumped and dumped.dump.error else "no stack"
        return Result(
            "warning",
            f"{reaped}, but where it was stuck is not known: {why.splitlines()[0]}",
            tracing_advice(),
        )
    if late > _LATE_SECONDS:
        return Result(
            "warning",
            reaped,
            "the machine is overloaded, or the CPU limit of this container is small",
        )
    return Result("ok", f"{reaped}, its stack by {dumped.dump.method}")


def _extra(name: str) -> Result:
    distribution, purpose = _EXTRAS[name]
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return Result("-", f"not installed: {purpose}")
    return Result("ok", f"{distribution} {version}: {purpose}")
