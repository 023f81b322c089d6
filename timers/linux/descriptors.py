"""Keep some descriptors free for what is needed for a moment only.

A server holds up to two descriptors for each worker as long as that lives, so its limit of open
files (RLIMIT_NOFILE) bounds how many it can have. Taking a stack, reading /proc and answering a
scrape need some for a moment; without them the workers that are known could not be explained any
more. So nothing that stays open is made of the last ones (:func:`is_reserved`), and one is kept
back for when somebody else has taken even those (:class:`Reserve`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, TypeVar

from timers.forks import reset_in_child
from timers.living import Living

from .owned import Owned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["EXHAUSTED", "Reserve", "is_reserved", "with_reserve"]

EXHAUSTED = (errno.EMFILE, errno.ENFILE)
"""The error numbers that mean: no descriptor is left, for this process or for the whole system."""
_MOST = 64
"""Enough for the stacks that are taken at the same time, each by a subprocess with its pipes."""
_Answer = TypeVar("_Answer")


def is_reserved(descriptor: int) -> bool:
    """Return whether ``descriptor`` is among the last 64 (of few: the last quarter) possible ones.

    The kernel gives the lowest free number (open(2)): when it gives one of the last, nearly all
    others are in use. The limit is read each time, since it may be changed. Safe from any thread.
    """
    limit = os.sysconf("SC_OPEN_MAX")  # RLIMIT_NOFILE as it is now
    return limit >= 0 and descriptor >= limit - min(_MOST, limit // 4)


class Reserve:
    """One descriptor kept back, lent for a moment when this process has no others left.

    Safe from any thread; closed in a forked child.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare = _spare()
        _reserves.add(self)
        reset_in_child(self)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Give the descriptor free, to one thread at a time, and take one back afterwards."""
        with self._lock:
            self._spare.close()
            try:
                yield
            finally:
                # Another thread may have been quicker: then it is tried again next time.
                with contextlib.suppress(OSError):
                    self._spare = _spare()

    def close(self) -> None:
        """Give it up. Idempotent."""
        _reserves.discard(self)
        self._spare.close()

    after_fork = close

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


_reserves: Living[Reserve] = Living()


def _spare() -> Owned:
    # Not /dev/null, as which programs that become daemons open other numbers.
    return Owned(os.memfd_create("timers-reserve", os.MFD_CLOEXEC))


def with_reserve(call: Callable[[], _Answer]) -> _Answer:
    """Return ``call()``, which takes a descriptor; if none is left, with a reserve lent.

    :raises OSError: what ``call`` raises, or raises again although every reserve was lent.
    """
    try:
        return call()
    except OSError as error:
        if error.errno not in EXHAUSTED:
            raise
        for reserve in _reserves.members():
            with reserve.lent(), contextlib.suppress(OSError):
                return call()
        raise
