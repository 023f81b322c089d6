"""Find and run another program under tight bounds: time, output, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ran", "find", "run"]

_CHUNK_BYTES = 65536
_MAX_OUTPUT_BYTES = 4 * 1024 * 1024
_MAX_ERROR_BYTES = 65536
_TICK_SECONDS = 0.02
_FINAL_TICK_SECONDS = 0.001
_REAP_SECONDS = 0.05
_TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended and what it wrote."""

    code: int = 0
    """Exit code, or minus the signal that ended it."""
    output: bytes = b""
    errors: bytes = b""
    problem: str | None = None
    """Why it did not come to an end by itself; the other fields say nothing then."""


def find(name: str, variable: str) -> tuple[str | None, str | None]:
    """Find the program ``name``: its path, or the reason why there is none (one of them is None).

    The environment variable ``variable`` overrides the search; otherwise the interpreter's own
    directory, its scripts directory and PATH are searched, in this order: a server started by the
    full path of a venv's interpreter has not got the venv's scripts in its PATH.
    """
    chosen = os.environ.get(variable)
    if chosen:
        path = Path(chosen).absolute()
        if path.is_file() and os.access(path, os.X_OK):
            return str(path), None
        return None, f"{variable}={chosen} is not an executable file: correct or unset it"
    directories = [
        str(Path(sys.executable).parent) if sys.executable else "",
        sysconfig.get_path("scripts"),
        *os.environ.get("PATH", os.defpath).split(os.pathsep),
    ]
    found = shutil.which(name, path=os.pathsep.join(entry for entry in directories if entry))
    if found is None:
        return None, f"not installed: pip install {name} (or set {variable} to its path)"
    return str(Path(found).absolute()), None


def run(command: list[str], *, timeout: float) -> Ran:
    """Run ``command`` for at most ``timeout`` seconds and 4 MiB of output; never raises.

    It gets a session of its own, so that it and whatever it started can be killed together, and no
    input. One that cannot be killed (an uninterruptible wait) is left to a daemon thread.
    """
    deadline = time.monotonic() + timeout
    # A backtrace of the tool, or colours, would only hide its message.
    quiet = {"RUST_BACKTRACE": "0", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
    try:
        process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={**os.environ, **quiet},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Ran(problem=f"could not be started: {error}")
    output, errors = bytearray(), bytearray()
    try:
        problem = _collect(process, output, errors, deadline)
    finally:
        code = _end(process)
    if problem is _TIMED_OUT:
        problem = f"{_TIMED_OUT} after {timeout:.2g} s"
    return Ran(code=code, output=bytes(output), errors=bytes(errors), problem=problem)


def _collect(
    process: subprocess.Popen[bytes], output: bytearray, errors: bytearray, deadline: float
) -> str | None:
    """Read both pipes until the process has exited; the reason if it had to be given up."""
    kept = {}
    poller = select.poll()
    for pipe, buffer in ((process.stdout, output), (process.stderr, errors)):
        if pipe is not None:
            poller.register(pipe, select.POLLIN)
            kept[pipe.fileno()] = buffer
    while True:
        # Asked before reading: what an exited process wrote is in the pipes by then. End-of-file
        # is not waited for, since a child of the process may hold its pipes open for ever.
        exited = _has_exited(process.pid)
        tick = 0 if exited else _TICK_SECONDS if kept else _FINAL_TICK_SECONDS
        ready = poller.poll(tick * 1000)
        for descriptor, _ in ready:
            # Does not block: it is ready, and nobody else reads from it.
            chunk = os.read(descriptor, _CHUNK_BYTES)
            kept[descriptor] += chunk
            if not chunk:
                poller.unregister(descriptor)
                del kept[descriptor]
        if len(output) > _MAX_OUTPUT_BYTES:
            return f"printed more than {_MAX_OUTPUT_BYTES} bytes"
        del errors[_MAX_ERROR_BYTES:]
        if exited and not ready:
            return None
        if time.monotonic() >= deadline:
            return None if exited else _TIMED_OUT


def _has_exited(pid: int) -> bool:
    try:
        # WNOWAIT leaves it a zombie: its pid, and so its process group, stays ours to signal.
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # SIGCHLD is ignored, or other code of this process waited for it
        return True


def _end(process: subprocess.Popen[bytes]) -> int:
    """Kill what is left of the process and its session; its exit code (0 when it will not end)."""
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    # No child of ours by that pid any more: it may belong to somebody else by now.
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.wait(_REAP_SECONDS)
    except subprocess.TimeoutExpired:
        threading.Thread(target=process.wait, name="stack tool", daemon=True).start()
        return 0
