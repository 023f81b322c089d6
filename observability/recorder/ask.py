"""Ask the Flight Recorders of all ranks of this host at once, within one bound.

Two ways. Torch's worker server answers in milliseconds, for every backend, also while the rank
holds the GIL; :mod:`timers.auto` starts it. NCCL's dump pipes need no code in the worker: a line
written to a named pipe makes the rank write its recorder to a file, 0.2 to 1 s later.

The paths come from the environment of the worker, so nothing is taken on trust: a socket must have
been opened by that very process, a pipe and a file must be its user's, and no link is followed.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from timers.auto import RECORDER_VARIABLE
from timers.transport.socket_path import peer_credentials

from ._read import MOST_BYTES, from_json, from_pickle
from .types import Recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

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
    questions: list[_Http | _Pipe] = []
    for target in targets:
        if target.socket is not None:
            questions += [_Http(target, handler) for handler in _HANDLERS]
        elif target.pipe is not None and target.dump is not None:
            questions.append(_Pipe(target.pid, target.pipe, target.dump))
    for question in questions:
        question.begin()
    while any(question.under_way for question in questions):
        left = until - time.monotonic()
        if left <= 0:
            break
        _wait(questions, min(left, _TICK_SECONDS))
    answers: dict[int, list[Recording]] = {}
    for question in questions:
        question.close(f"no answer within {timeout:.2g} s")
        answers.setdefault(question.pid, []).append(question.answer)
    return {pid: _merged(found) for pid, found in answers.items()}


def _wait(questions: Sequence[_Http | _Pipe], seconds: float) -> None:
    poller = select.poll()
    for question in questions:
        if isinstance(question, _Http) and question.under_way:
            poller.register(question.fileno(), question.wanted)
    ready = {descriptor for descriptor, _ in poller.poll(seconds * 1000)}
    for question in questions:
        if not isinstance(question, _Http) or question.fileno() in ready:
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
    """One question, until it is answered or given up."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.under_way = True
        self.answer = Recording(error="not asked")

    def begin(self) -> None:
        """Take the first step."""
        self._guarded(self._begin)

    def go_on(self) -> None:
        """Take the next step, if there is one to take."""
        if self.under_way:
            self._guarded(self._go_on)

    def close(self, why: str) -> None:
        """Give up what is under way."""
        if self.under_way:
            self._end(Recording(error=why))

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (OSError, ValueError) as error:
            self._end(Recording(error=f"{error}"))

    def _begin(self) -> None:
        raise NotImplementedError

    def _go_on(self) -> None:
        raise NotImplementedError

    def _end(self, answer: Recording) -> None:
        self.answer = answer
        self.under_way = False


class _Http(_Question):
    """A request to a worker server. One connection each: the server answers one after another."""

    def __init__(self, target: Target, handler: str) -> None:
        super().__init__(target.pid)
        self._path = target.socket or ""
        # Without a length the server waits for a body that never comes.
        self._unsent = (
            f"POST /handler/{handler} HTTP/1.1\r\nHost: timers\r\n"
            "Content-Length: 0\r\nConnection: close\r\n\r\n"
        ).encode()
        self._received = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to wait on; -1 once it is over."""
        return self._socket.fileno()

    @property
    def wanted(self) -> int:
        """What to wait for."""
        return select.POLLOUT if self._unsent else select.POLLIN

    def _begin(self) -> None:
        code = self._socket.connect_ex(self._path)
        if code != 0:
            # EAGAIN: its backlog is full, so it accepts nobody (unix(7)).
            raise OSError(code, f"worker server: {errno.errorcode.get(code, code)}")
        pid = peer_credentials(self._socket).pid
        if pid != self.pid:
            raise OSError(f"the socket is process {pid}'s, not {self.pid}'s")

    def _go_on(self) -> None:
        if self._unsent:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
            return
        try:
            chunk = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        self._received += chunk
        if len(self._received) > MOST_BYTES:
            raise ValueError("its answer is too long")
        if not chunk:
            head, _, body = bytes(self._received).partition(b"\r\n\r\n")
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise ValueError("torch has no such recorder here")
            self._end(from_json(body))

    def _end(self, answer: Recording) -> None:
        super()._end(answer)
        self._socket.close()


class _Pipe(_Question):
    """A line to the pipe that NCCL reads, and the file that it writes in answer."""

    def __init__(self, pid: int, pipe: str, dump: str) -> None:
        super().__init__(pid)
        self._pipe = pipe
        self._dump = dump
        self._before: tuple[int, int] | None = None

    def _begin(self) -> None:
        self._owner = os.stat(f"/proc/{self.pid}").st_uid
        self._before = self._state()
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._pipe, flags)
        try:
            found = os.fstat(fd)
            if not stat.S_ISFIFO(found.st_mode) or found.st_uid != self._owner:
                raise OSError(f"{self._pipe} is not a pipe of the worker's user")
            os.write(fd, b"dump\n")
        finally:
            os.close(fd)

    def _state(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._dump, follow_symlinks=False)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _go_on(self) -> None:
        if self._state() in (None, self._before):
            return
        fd = os.open(self._dump, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != self._owner:
                raise OSError(f"{self._dump} is not a file of the worker's user")
            data = file.read(MOST_BYTES + 1)
        if not data.endswith(b"."):
            return  # It is still being written: a pickle ends with STOP.
        self._end(from_pickle(data))
