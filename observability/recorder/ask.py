"""Ask the Flight Recorders of all ranks of this host at once, within one bound.

Two ways. Torch's worker server answers in milliseconds, for every backend, also while the rank
holds the GIL; :mod:`timers.auto` starts it. NCCL's dump pipes need no code in the worker: a line
written to a named pipe makes the rank write its recorder to a file, 0.2 to 1 s later.

The paths come from the environment of the worker, so nothing is taken on trust: a socket must have
been opened by that very process, a pipe and a file must be its user's, and no link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from timers.auto import RECORDER_VARIABLE
from timers.bounded import left
from timers.transport.socket_path import peer_credentials

from ._read import MOST_BYTES, from_json, from_pickle
from .types import Recording

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    _Steps = Generator[tuple[int, int] | None, None, Recording]

__all__ = ["DUMP_VARIABLE", "PIPE_VARIABLE", "Target", "ask", "target_of"]

PIPE_VARIABLE = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
DUMP_VARIABLE = "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"
_HANDLERS = ("dump_nccl_trace_json", "fr_trace_json")
"""Of NCCL, and of gloo and other backends. A build of torch may have one of them or both."""
_CHUNK = 1 << 16
_TICK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Target:
    """Where one worker can be asked."""

    pid: int
    socket: str | None = None
    """Of its worker server."""
    pipe: str | None = None
    """The named pipe that NCCL reads."""
    dump: str | None = None
    """The file that it writes then."""


def target_of(pid: int, rank: int | None, environment: Mapping[str, str]) -> Target | None:
    """Find out where the worker ``pid`` can be asked; None when nowhere.

    :param environment: that of the worker.
    """
    directory = environment.get(RECORDER_VARIABLE)
    path = os.path.join(directory, f"{pid}.sock") if directory else None
    if path is not None and not os.path.exists(path):
        path = None
    pipe, dump = environment.get(PIPE_VARIABLE), environment.get(DUMP_VARIABLE)
    if rank is not None and pipe and dump:
        return Target(pid, path, f"{pipe}{rank}.pipe", f"{dump}{rank}")
    return Target(pid, path) if path else None


def ask(targets: Iterable[Target], *, timeout: float) -> dict[int, Recording]:
    """Ask each of ``targets``; return what they answered, or why they did not, by pid.

    Takes at most ``timeout`` seconds, and as long as the slowest rank otherwise. Never raises.
    """
    until = time.monotonic() + timeout
    questions: list[_Question] = []
    for target in targets:
        if target.socket is not None:
            questions += [
                _Question(target.pid, _by_server(target.pid, target.socket, handler))
                for handler in _HANDLERS
            ]
        elif target.pipe is not None and target.dump is not None:
            questions.append(_Question(target.pid, _by_pipe(target.pid, target.pipe, target.dump)))
    while (open_ones := [each for each in questions if each.answer is None]) and left(until) > 0:
        _wait(open_ones, min(left(until), _TICK_SECONDS))
    answers: dict[int, list[Recording]] = {}
    for question in questions:
        question.close()
        late = Recording(error=f"no answer within {timeout:.2g} s")
        answers.setdefault(question.pid, []).append(question.answer or late)
    return {pid: _merged(found) for pid, found in answers.items()}


def _wait(questions: Sequence[_Question], seconds: float) -> None:
    poller = select.poll()
    for question in questions:
        if question.awaited is not None:
            poller.register(*question.awaited)
    ready = {descriptor for descriptor, _ in poller.poll(seconds * 1000)}
    for question in questions:
        if question.awaited is None or question.awaited[0] in ready:
            question.go_on()


def _merged(answers: Sequence[Recording]) -> Recording:
    good = [answer for answer in answers if answer.answered]
    if not good:
        return answers[0]
    return Recording(
        groups=tuple(group for answer in good for group in answer.groups),
        timed=any(answer.timed for answer in good),
    )


class _Question:
    """One question, until it is answered or given up.

    :param steps: yields before each step what has to be ready for it, a descriptor and what of it;
        None for one to be taken now and then. Returns the answer, or raises OSError or ValueError.
    """

    def __init__(self, pid: int, steps: _Steps) -> None:
        self.pid = pid
        self.answer: Recording | None = None
        self.awaited: tuple[int, int] | None = None
        self._steps = steps
        self.close = steps.close
        self.go_on()

    def go_on(self) -> None:
        try:
            self.awaited = next(self._steps)
        except StopIteration as ended:
            self.answer = ended.value
        except (OSError, ValueError) as error:
            self.answer = Recording(error=f"{error}")


def _by_server(pid: int, path: str, handler: str) -> _Steps:
    """Ask a worker server. One connection each: the server answers one after another."""
    # Without a length the server waits for a body that never comes.
    unsent = (
        f"POST /handler/{handler} HTTP/1.1\r\nHost: timers\r\n"
        "Content-Length: 0\r\nConnection: close\r\n\r\n"
    ).encode()
    received = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asked:
        asked.setblocking(False)
        code = asked.connect_ex(path)
        if code != 0:
            # EAGAIN: its backlog is full, so it accepts nobody (unix(7)).
            raise OSError(code, f"worker server: {errno.errorcode.get(code, code)}")
        found = peer_credentials(asked).pid
        if found != pid:
            raise OSError(f"the socket is process {found}'s, not {pid}'s")
        while unsent:
            yield asked.fileno(), select.POLLOUT
            unsent = unsent[asked.send(unsent) :]
        while True:
            yield asked.fileno(), select.POLLIN
            with contextlib.suppress(BlockingIOError):
                chunk = asked.recv(_CHUNK)
                if not chunk:
                    break
                received += chunk
            if len(received) > MOST_BYTES:
                raise ValueError("its answer is too long")
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise ValueError("torch has no such recorder here")
    return from_json(body)


def _by_pipe(pid: int, pipe: str, dump: str) -> _Steps:
    """Write a line to the pipe that NCCL reads; read the file that it writes in answer."""
    owner = os.stat(f"/proc/{pid}").st_uid
    before = _state(dump)
    fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISFIFO(found.st_mode) or found.st_uid != owner:
            raise OSError(f"{pipe} is not a pipe of the worker's user")
        os.write(fd, b"dump\n")
    finally:
        os.close(fd)
    data = b""
    while not data.endswith(b"."):  # It is still being written: a pickle ends with STOP.
        yield None
        if _state(dump) in (None, before):
            continue
        fd = os.open(dump, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != owner:
                raise OSError(f"{dump} is not a file of the worker's user")
            data = file.read(MOST_BYTES + 1)
    return from_pickle(data)


def _state(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
