"""Small child processes that wait, and namespaces in which pids can be recycled on purpose."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING

import pytest

from support.processes import VICTIMS
from support.waiting import eventually
from timers.linux import procfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "FORKS",
    "OTHER_UID",
    "adopting",
    "alive",
    "descriptors",
    "dropped",
    "family",
    "in_child",
    "in_pid_namespace",
    "no_descriptors",
    "same_path",
    "waiting",
]

FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
"""For tests that fork this process on purpose, threads and all (warned of since Python 3.12)."""
_PR_SET_CHILD_SUBREAPER = 36
OTHER_UID = 65534
"""nobody, on every Linux."""


@contextlib.contextmanager
def waiting(*, ignoring: str = "", uid: int | None = None) -> Iterator[int]:
    """Start a child that waits for its end; give its pid, and kill and reap it afterwards.

    :param ignoring: names of signals that it ignores: ``"TERM INT"``.
    :param uid: the user it runs as.
    """
    trap = f"trap '' {ignoring}; " if ignoring else ""
    with subprocess.Popen(
        ["sh", "-c", f"{trap}echo ready; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            # "ready" comes from the shell: wait until it has become what it stays.
            eventually(lambda: procfs.stat(process.pid) and _command(process.pid) == b"cat\0")
            yield process.pid
        finally:
            dropped(process.pid)


def _command(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def dropped(pid: int) -> int | None:
    """Kill and reap a child; return its exit code, or None when it had been reaped before."""
    try:
        # As long as it has not been reaped its pid is nobody else's.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(check: Callable[[], bool]) -> bool:
    """Fork, and say whether ``check`` holds in the child. For tests marked with ``FORKS``."""
    pid = os.fork()
    if pid == 0:
        held = False
        try:
            held = check()
        except BaseException:  # noqa: BLE001  # told by the exit code
            traceback.print_exc()
        finally:
            os._exit(0 if held else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Orphans of this process's children become its own meanwhile (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@contextlib.contextmanager
def family() -> Iterator[tuple[int, int]]:
    """Start a child that has a child, both of which wait; give both pids. In ``adopting()``."""
    script = "sleep 1000 & echo $!; exec sleep 1000"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as middle:
        assert middle.stdout is not None
        last = int(middle.stdout.readline())
        try:
            yield middle.pid, last
        finally:
            dropped(middle.pid)
            eventually(lambda: dropped(last) is not None, "it is adopted, and ended")


def alive(pid: int) -> bool:
    """Whether a child of this process has not ended yet (it is not reaped by this)."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def descriptors() -> set[str]:
    """What this process has open, the listing itself and forgotten objects not counted."""
    gc.collect()
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
    return {entry for entry in found if not entry.endswith("/fd")}


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Have this process get no further descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def same_path() -> dict[str, str]:
    """The environment for a Python that is to find what this one finds, these helpers included."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


@functools.cache
def _no_recycling(*command: str) -> str:
    """Why pids cannot be recycled under ``command``; empty when they can."""
    if shutil.which(command[0]) is None:
        return f"{command[0]}(1) is not installed"
    probe = subprocess.run(
        [*command, "sh", "-c", "echo 100 > /proc/sys/kernel/ns_last_pid"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return "" if probe.returncode == 0 else probe.stderr.strip()


def in_pid_namespace(script: str, *args: str) -> None:
    """Run ``tests/victims/SCRIPT.py ARGS`` as root of a pid namespace of its own.

    Where that is not permitted the test is skipped; on a machine that says ``CI`` it fails.
    """
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user"]
    if reason := _no_recycling(*command):
        message = f"cannot recycle pids here: {reason}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    done = subprocess.run(
        [*command, sys.executable, str(VICTIMS / f"{script}.py"), *args],
        env=same_path(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
