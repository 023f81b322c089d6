"""The server's side of the named pipe: any bytes, in writes of any size, by two writers in turn.

The first byte of an input says how long the writes are, the rest is what is written. Afterwards
every line is accounted for: it was a request, or it was rejected with its reason.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING

from . import wire_lines
from .harmless import Flattening, HarmlessFileServer, options
from .reference import nesting, of_lines
from .target import Target
from .waiting import looked_again, soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .target import Try

__all__ = ["TARGET", "PipeServer"]

_DEEP = 200
_SIZES = (1, 3, 17, 100, 1000, 4096, 4097, 60_000)


class PipeServer:
    """A server on a pipe, two writers, and the account of what was written."""

    def __init__(self, directory: str) -> None:
        path = f"{directory}/pipe"
        self.observer = Flattening()
        self.server = HarmlessFileServer(path, "fuzz", **options(self.observer))
        self._writers = [os.open(path, os.O_WRONLY) for _ in range(2)]
        self.server.start()

    def close(self) -> None:
        """End the server; what it left behind would be a finding."""
        for fd in self._writers:
            os.close(fd)
        self.server.stop()

    def accounted(self) -> int:
        """How many lines the server has seen."""
        statistics = self.server.statistics
        return statistics.requests + sum(statistics.rejected.values())

    def write(self, data: bytes, size: int) -> None:
        """Write ``data``, ``size`` bytes at a time, by the writers in turn."""
        for number, start in enumerate(range(0, len(data), size)):
            os.write(self._writers[number % 2], data[start : start + size])

    def try_one(self, data: bytes) -> None:
        """Write an input, and see every line of it accounted for."""
        size = _SIZES[data[0] % len(_SIZES)] if data else 1
        text = data[1:] + b"\n"
        if nesting(text) > _DEEP:
            return  # see wire_lines
        before = self.accounted()
        rejected = dict(self.server.statistics.rejected)
        found = of_lines(text)
        messages = sum(message is not None for message, _ in found)
        reasons = [reason for _, reason in found if reason is not None]
        self.write(text, size)
        expected = before + messages + len(reasons)
        soon(lambda: self.accounted() >= expected, f"{len(found)} lines are accounted for")
        looked_again(self.server)
        assert self.accounted() == expected
        now = self.server.statistics.rejected
        for reason in ("empty", "too_long", "not_utf8", "not_json", "not_an_object", "missing_key",
                       "wrong_type", "unsupported_version"):  # fmt: skip
            assert now[reason] - rejected[reason] == reasons.count(reason), reason
        assert now["internal_error"] == 0
        self.observer.check()


@contextlib.contextmanager
def _open() -> Iterator[Try]:
    with tempfile.TemporaryDirectory() as directory:
        pipe = PipeServer(directory)
        try:
            yield pipe.try_one
        finally:
            pipe.close()


TARGET = Target(
    "server on a named pipe",
    _open,
    words=("wire",),
    longest=wire_lines.TARGET.longest,
)
