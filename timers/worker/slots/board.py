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


class _Places:
    """What has been given out of a board, and of the one that takes its place."""

    def __init__(self, slots: int) -> None:
        self.numbers = iter(range(slots))
        self.names_end = 0
        self.free: dict[str, list[int]] = {}
        """By scope: slots of threads that have ended. What these counted, the next one goes on
        from, which is why they serve the same scope only."""


class Board:
    """The shared memory of one client in one process.

    :param layout: how large it is.
    :param before: the board that this one takes the place of, with all that is on it, because its
        descriptors are lost; its slots are moved afterwards, each by :meth:`BoardSlot.move`.
    :raises OSError: there is no memory or no descriptor for it.

    Safe from several threads. In a forked child it still is the parent's: the child takes a board
    of its own and leaves this one alone.
    """

    def __init__(self, layout: board.Layout, before: Board | None = None) -> None:
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
        self._places: _Places = _Places(layout.slots) if before is None else before._places
        self._names: dict[str, tuple[int, int]] = {}
        if before is None:
            self.words[board.EPOCH] = time.time_ns() - time.monotonic_ns()
        else:
            self._continue(before)
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
            number = self._places.free[scope].pop()
        except (KeyError, IndexError):
            name = scope.encode("utf-8", "surrogatepass")
            place = self._names.get(scope) or self._place(scope, name)
            taken = None if place is None else next(self._places.numbers, None)
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
        places = self._places
        start = places.names_end  # no call up to the store, or two threads get the same place
        end = start + length
        if end > limit:
            return None
        places.names_end = end
        at = self.layout.names
        self._memory[at + start : at + end] = name
        place = self._names[scope] = (start, length)
        return place

    def give_back(self, scope: str, number: int) -> None:
        """Let another thread have a slot whose own thread has ended. Safe in a finalizer."""
        self._places.free.setdefault(scope, []).append(number)

    def _continue(self, before: Board) -> None:
        """Take over what is on ``before``, but for what its slots are at just now."""
        old, new, layout = before.words, self.words, self.layout
        self._names.update(before._names)  # first: what is in it has been written
        at, end = layout.names, layout.names + self._places.names_end
        self._memory[at:end] = before._memory[at:end]
        used = old[board.USED]
        for start, width in (
            *((section, 1) for section in (layout.deadlines, layout.states, layout.leads)),
            (layout.infos, board.INFO_WORDS),
            (layout.counts, board.COUNT_WORDS),
            (layout.counted, board.COUNTED_WORDS),
        ):
            new[start : start + used * width] = old[start : start + used * width]
        new[board.USED], new[board.EPOCH] = used, old[board.EPOCH]
        was_handed_over = old[board.SERVED] or not old[board.MOVED_FROM]
        file = before._file
        new[board.MOVED_FROM] = (
            old[board.MOVED_FROM] if file is None or not was_handed_over else file[1]
        )

    def add(self, scope: str, number: int) -> None:
        """Have a slot that was given out on the board before this one."""
        name = scope.encode("utf-8", "surrogatepass")
        start = self.words[self.layout.infos + number * board.INFO_WORDS + board.NAME_AT]
        at = self.layout.names + start
        self._memory[at : at + len(name)] = name
        words = self.words
        if words[board.USED] <= number:  # no call in between
            words[board.USED] = number + 1

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
