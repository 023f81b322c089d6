"""The service's HTTP side on a real socket: any bytes, in any order of writes.

An input is what a client sends. At each ``~|~`` in it the server is given the time to answer what
it has until then. Whatever that is: what comes back starts with a status line, no answer says that
the server failed, nothing is logged, and metrics are served on as before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import socket
import struct
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from support.service import running

from .target import Target
from .waiting import soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from observability.service import Service

    from .target import Try

__all__ = ["TARGET", "HttpService"]

_PAUSE = b"~|~"
_PAUSES = 8
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [\x20-\x7e]*\r\n")
_HEADERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\x20-\x7e]*\r\n)*\r\n")
_LENGTH = re.compile(rb"(?mi)^content-length: (\d+)\r$")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # leaves no port in TIME_WAIT, socket(7)
_READY = b"GET /-/ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
_PAGE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
_METRICS = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


class _Errors(logging.Handler):
    """What the service complained of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # A stranger's malformed request is a warning of uvicorn's, which the service leaves out.
        if record.levelno >= logging.ERROR:
            self._texts.append(self.format(record))

    def check(self) -> None:
        """Raise what was heard since the last time."""
        texts, self._texts = self._texts, []
        assert not texts, "\n".join(texts)


class HttpService:
    """A service, and a client of it that behaves."""

    def __init__(self, service: Service) -> None:
        assert service.address is not None
        self._address = (service.address.host, service.address.port)
        self._errors = _Errors()
        for name in ("uvicorn.error", "asyncio", "observability"):
            logging.getLogger(name).addHandler(self._errors)
        self._well = self._connect()
        for request in (_METRICS, _PAGE):
            self._answer(request)
        self._threads = threading.active_count()
        self._descriptors = 0
        self._tried = 0

    def close(self) -> None:
        """Hang up."""
        self._well.close()
        for name in ("uvicorn.error", "asyncio", "observability"):
            logging.getLogger(name).removeHandler(self._errors)

    def _connect(self) -> socket.socket:
        client = socket.create_connection(self._address, timeout=30)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        return client

    def _answer(self, request: bytes) -> bytes:
        """What the client that behaves is answered, in full."""
        self._well.sendall(request)
        answer = b""
        while not (whole := _first(answer)):
            data = self._well.recv(1 << 16)
            assert data, f"a connection in order was closed after {answer[-100:]!r}"
            answer += data
        return whole

    def try_one(self, data: bytes) -> None:
        """Send an input and look at what comes back."""
        if not self._tried:  # not before: libFuzzer opens files of its own when it begins
            self._descriptors = len(os.listdir("/proc/self/fd"))
        answer = b""
        with self._connect() as client:
            for part in data.split(_PAUSE)[:_PAUSES]:
                with contextlib.suppress(ConnectionError):  # it had enough of us
                    client.sendall(part)
                assert self._answer(_READY).endswith(b"workers can connect\n")
                answer += _received(client, wait=False)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)
            # Whoever has said all is not kept: answered or not, the connection ends.
            answer += _received(client, wait=True)
        if answer:
            self._check(answer, whole=b"HEAD" not in data)
        self._errors.check()
        assert threading.active_count() <= self._threads
        soon(lambda: len(os.listdir("/proc/self/fd")) <= self._descriptors, "no descriptor is kept")
        self._tried += 1
        if self._tried % 20 == 0:
            assert b"timers_workers" in self._answer(_METRICS)

    @staticmethod
    def _check(answer: bytes, *, whole: bool) -> None:
        while answer:
            status = _STATUS_LINE.match(answer)
            assert status, f"no status line: {answer[:100]!r}"
            assert status[1] != b"500", answer[:300]
            end = status.end()
            headers = _HEADERS.match(answer, end)
            if not whole or headers is None:
                # The answer to HEAD has no body; what was cut off when we hung up has no end.
                assert headers or b"\r\n\r\n" not in answer[end:], answer[:300]
                return
            first = _first(answer)
            if not first:
                return
            answer = answer[len(first) :]


def _first(answer: bytes) -> bytes:
    """The first whole answer in ``answer``; empty when it is not complete."""
    head, blank, rest = answer.partition(b"\r\n\r\n")
    if not blank:
        return b""
    start = len(head) + len(blank)
    if head.startswith((b"HTTP/1.1 1", b"HTTP/1.1 204", b"HTTP/1.1 304")):
        return answer[:start]
    if b"transfer-encoding: chunked" in head.lower():
        end = rest.find(b"0\r\n\r\n")
        return answer[: start + end + 5] if end >= 0 else b""
    length = _LENGTH.search(head + b"\r\n")
    if length is None:  # until the connection ends
        return answer
    size = start + int(length[1])
    return answer[:size] if len(answer) >= size else b""


def _received(client: socket.socket, *, wait: bool) -> bytes:
    """What has arrived by now or, to ``wait``, until the server hangs up."""
    answer = b""
    try:
        while wait or select.select([client], [], [], 0)[0]:
            data = client.recv(1 << 16)
            if not data:
                break
            answer += data
    except ConnectionError:
        pass  # it hung up on what it had not read
    return answer


@contextlib.contextmanager
def _open() -> Iterator[Try]:
    with tempfile.TemporaryDirectory() as directory, running(Path(directory)) as service:
        http = HttpService(service)
        try:
            yield http.try_one
        finally:
            http.close()


TARGET = Target(
    "HTTP side of the service",
    _open,
    words=("http",),
    longest=20_000,
)
