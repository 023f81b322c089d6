"""A wall clock of its own for a process, to be stepped at will (libfaketime).

The monotonic clock stays that of the host, as it does when a real clock is stepped. Debian and
Ubuntu: the package ``libfaketime``.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["HOUR", "WallClock", "library"]

HOUR = 3600
_NAMES = ("libfaketimeMT.so.1", "libfaketime.so.1")


def library() -> str | None:
    """The path of libfaketime; None where it is not installed."""
    for directory in ("/usr/lib", "/usr/local/lib"):
        for name in _NAMES:
            for found in sorted(Path(directory).glob(f"**/faketime/{name}")):
                return str(found)
    return None


class WallClock:
    """The wall clock of the processes that are started with :attr:`environment`.

    :param path: of a file to keep it in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {
            "LD_PRELOAD": library() or "",
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, offset: int) -> None:
        """Step it to so many seconds off the real time."""
        new = self.path.with_suffix(".new")
        new.write_text(f"{offset:+d}\n")
        new.rename(self.path)
