"""What a client knows of its own timers, so that it can tell it again. Pure state, no I/O.

A scope of a thread is told again as it stands: each open block with its original deadline, the
outermost first, or that there is none. What happened in between and was not told is added as
counts, so that nothing has to be kept but how things stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ._request_lines import LEAVE, NESTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Key", "OpenTimers"]

Key: TypeAlias = tuple[int, str]
"""Native thread id and scope."""

_MOST_BACKLOG = 10_000


class _Block(NamedTuple):
    base: str
    rest: str


class _Untold:
    """What has not been told of one scope of one thread."""

    __slots__ = ("acquires", "known", "releases")

    def __init__(self, *, known: bool) -> None:
        self.acquires = 0
        self.releases = 0
        self.known = known
        """Whether the server may hold a timer of it."""


class OpenTimers:
    """The open timers of one process, and what its server has not been told.

    :param released: gives the base of a release's line.

    Not thread-safe: the caller serializes the calls.
    """

    def __init__(self, released: Callable[[int, str], str]) -> None:
        self._released = released
        self._blocks: dict[Key, list[_Block]] = {}
        self.untold: dict[Key, _Untold] = {}
        """In the order in which they have to be told."""

    def __len__(self) -> int:
        return len(self._blocks)

    def acquire(self, key: Key, base: str, marks: str = "", rest: str = "") -> None:
        """A block was entered, restarted, or an inner one left.

        :param base: and the rest: the parts of its line (:mod:`timers.worker._request_lines`).
        """
        block = _Block(base, rest)
        blocks = self._blocks.get(key)
        if blocks is None:
            self._blocks[key] = [block]
        elif marks == NESTED:
            blocks.append(block)
        elif marks.startswith(LEAVE):
            if len(blocks) > 1:
                blocks.pop()
            blocks[-1] = _Block(base, rest or blocks[-1].rest)
        else:
            blocks[-1] = block

    def release(self, key: Key) -> None:
        """The block ended; allowed when there was none."""
        self._blocks.pop(key, None)

    def not_told(self, key: Key, *, was_open: bool, acquires: int = 0, releases: int = 0) -> None:
        """Remember that the server has to be told of ``key``, and what it missed.

        :param was_open: whether it may have been told of a timer before.
        """
        untold = self.untold.get(key)
        if untold is None:
            untold = self.untold[key] = _Untold(known=was_open)
        untold.acquires += acquires
        untold.releases += releases
        # A worker that puts numbers into its scopes, without a server for a long time: only what
        # nobody has to know any more is given up, and that is nothing but counts.
        if len(self.untold) > _MOST_BACKLOG and key not in self._blocks and not untold.known:
            del self.untold[key]

    def nothing_told(self) -> None:
        """The server has gone: the next one has to be told of every open timer."""
        for key in self._blocks:
            self.not_told(key, was_open=True)

    def lines(self, key: Key) -> Iterator[str]:
        """How ``key`` stands, as lines to send; :meth:`told` when they were."""
        untold = self.untold[key]
        counts = f', "missed": [{untold.acquires}, {untold.releases}]}}\n'
        blocks = self._blocks.get(key)
        if not blocks:
            yield self._released(*key) + counts
            return
        for index, block in enumerate(blocks):
            nested = NESTED if index else ""
            last = index == len(blocks) - 1
            yield block.base + nested + block.rest + (counts if last else ', "missed": [0, 0]}\n')

    def told(self, key: Key) -> None:
        """The server knows how ``key`` stands."""
        del self.untold[key]

    def is_open(self, key: Key) -> bool:
        """Whether a timer of ``key`` runs."""
        return key in self._blocks
