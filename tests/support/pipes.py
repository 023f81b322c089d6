"""Readers of a named pipe other than ours, and full pipes."""

from __future__ import annotations

import os

__all__ = ["drain", "fill", "plain_reader"]


def plain_reader(path: str) -> int:
    """Open the pipe for reading as torch's server or ``cat`` does; it has no enlarged capacity."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def drain(fd: int) -> bytes:
    """Read all that is there."""
    found = b""
    while True:
        try:
            piece = os.read(fd, 1 << 20)
        except BlockingIOError:
            return found
        if not piece:
            return found
        found += piece


def fill(fd: int) -> int:
    """Fill the pipe behind ``fd`` with empty lines; return how many bytes went in."""
    os.set_blocking(fd, False)
    written = 0
    size = 4096
    while size:
        try:
            written += os.write(fd, b"\n" * size)
        except BlockingIOError:
            size //= 2
    return written
