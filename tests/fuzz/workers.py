"""Processes that do nothing, for requests to be about."""

from __future__ import annotations

import subprocess

__all__ = ["Crowd"]


class Crowd:
    """So many processes, by number; one that has ended is replaced by another."""

    def __init__(self, size: int) -> None:
        self._processes = [_start() for _ in range(size)]

    def pid(self, number: int) -> int:
        """Of the process with that number, now."""
        return self._processes[number].pid

    def replace(self, number: int) -> None:
        """End one, see it end, and put another in its place."""
        # Started first: the new one cannot have the pid of the old one.
        fresh = _start()
        _end(self._processes[number])
        self._processes[number] = fresh

    def close(self) -> None:
        """End all."""
        for process in self._processes:
            _end(process)


def _start() -> subprocess.Popen[bytes]:
    # Ends by itself when this process does, however that ends: libFuzzer leaves without a word.
    return subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.kill()
