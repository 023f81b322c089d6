"""The worker's side of a board (:mod:`timers.transport.board`): makes it and gives out its slots.

No lock here: a signal handler or a finalizer may enter a block while its thread is in the middle
of any of this, and at the end of the interpreter a lock may be held by a thread that is no more.
CPython switches threads and runs handlers only at calls and at backward jumps, so a run of
statements without either is one step; the remarks below say where that matters.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time

from timers.linux.owned import identity
from timers.transport import board

__all__ = ["Board"]

_kept: list[mmap.mmap] = []
"""Memory that is never unmapped, because that would close a descriptor of somebody else's."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Board:
    """The shared memory of one client in one process.

    :param layout: how large it is.
    :raises OSError: there is no memory or no descriptor for it.

    Safe from several threads. In a forked child it still is the parent's: the child takes a board
    of its own and leaves this one alone.
    """

    def __init__(self, layout: board.Layout) -> None:
        self.layout = layout
        self.fd = os.memfd_create("timers-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, layout.size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self._memory = mmap.mmap(self.fd, layout.size)
        except BaseException:
            os.close(self.fd)
            raise
        self._file = identity(self.fd)
        self._duplicate = self._descriptor_of_memory()
        self.words = memoryview(self._memory).cast("q")
        self._numbers = iter(range(layout.slots))
        self._names_end = 0
        self._names: dict[str, tuple[int, int]] = {}
        self._free: dict[str, list[int]] = {}
        """By scope: slots of threads that have ended. What these counted, the next one goes on
        from, which is why they serve the same scope only."""
        self.words[board.EPOCH] = time.time_ns() - time.monotonic_ns()
        self.words[board.SLOTS] = layout.slots
        self.words[board.VERSION_WORD] = board.VERSION
        self.words[board.MAGIC] = board.MAGIC_WORD

    def take(self, scope: str, thread: int, signal: int) -> int | None:
        """Return the number of a slot for ``scope`` in ``thread``; None when there is none left.

        :param thread: its native id.
        :param signal: what the server is to send when a block overruns.
        """
        words = self.words
        try:
            number = self._free[scope].pop()
        except (KeyError, IndexError):
            name = scope.encode("utf-8", "surrogatepass")
            place = self._names.get(scope) or self._place(scope, name)
            taken = None if place is None else next(self._numbers, None)
            if place is None or taken is None:
                return None
            number = taken
            at = self.layout.infos + number * board.INFO_WORDS
            words[self.layout.deadlines + number] = board.NONE
            words[at + board.NAME_AT] = place[0]
            words[at + board.NAME_LENGTH] = place[1] + 1  # by which it is complete
            if words[board.USED] <= number:  # no call in between
                words[board.USED] = number + 1
        at = self.layout.infos + number * board.INFO_WORDS
        words[at + board.THREAD] = thread
        words[at + board.SIGNAL] = signal
        return number

    def _place(self, scope: str, name: bytes) -> tuple[int, int] | None:
        length, limit = len(name), self.layout.name_bytes
        start = self._names_end  # no call up to the store, or two threads get the same place
        end = start + length
        if end > limit:
            return None
        self._names_end = end
        at = self.layout.names
        self._memory[at + start : at + end] = name
        place = self._names[scope] = (start, length)
        return place

    def give_back(self, scope: str, number: int) -> None:
        """Let another thread have a slot whose own thread has ended. Safe in a finalizer."""
        self._free.setdefault(scope, []).append(number)

    def _descriptor_of_memory(self) -> int | None:
        """Return which descriptor the memory has for itself, and closes with it, if any."""
        with contextlib.suppress(OSError):
            for name in os.listdir("/proc/self/fd"):
                if int(name) != self.fd and identity(int(name)) == self._file:
                    return int(name)
        return None

    def __del__(self) -> None:
        # A program that became a daemon has closed that one, too; its number may be another file's.
        try:  # when the interpreter ends, contextlib may be gone before this is
            self.close()
            if self._duplicate is not None and identity(self._duplicate) != self._file:
                _kept.append(self._memory)
        except Exception:  # noqa: BLE001, S110  # a finalizer has nobody to tell
            pass

    def owns_descriptor(self) -> bool:
        """Whether :attr:`fd` still is this board: a program may have closed it, and more."""
        return identity(self.fd) == self._file

    def close(self) -> None:
        """Close the descriptor; the memory goes with the last slot of it."""
        if self.owns_descriptor():
            os.close(self.fd)
        self.fd = -1
