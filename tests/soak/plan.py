"""Who does what in a run: an endless row of episodes, the same for the same seed.

An episode is the life of one worker process (and of the children that it forks). The first ones
are one of each kind, so that even a short run has seen everything; after that chance decides.
"""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DEAF", "HANGS", "KINDS", "PAIRS", "Episode", "episodes", "opening"]

PAIRS = {"file": ("file",), "socket": ("socket",), "both": ("file", "socket")}
"""The choices of ``--pair``: with "both", one server has workers of either kind."""
KINDS = {
    "works": 6,  # and exits
    "forks": 3,  # children that work, hang, are killed or leave
    "hangs": 4,  # and is reaped
    "is killed": 2,  # from outside, by SIGKILL, inside a block
    "leaves": 1,  # by _exit() out of a block
    "overruns": 1,  # a timer that only observes, and goes on then
    "is warned": 1,  # on its way, and goes on
    "misbehaves": 2,  # sends bad lines among good ones
}
"""The kinds of episodes, and how often each is chosen."""
HANGS = ("sleep", "lock", "spin", "read", "gil", "stopped")
"""Where a worker hangs: in a call, a lock, a busy loop, a pipe, in C with the interpreter's lock,
and stopped by SIGSTOP."""
_INTERRUPTIBLE = ("sleep", "lock", "spin", "read")
DEAF = "deaf"
"""In place of a signal: the client asks for SIGTERM, which the worker ignores."""
_CHILDREN = ("works", "works", "hangs", "is killed", "leaves")


@dataclass(frozen=True)
class Episode:
    """The life of one worker."""

    number: int
    kind: str
    pair: str
    seed: int
    mode: str = "sleep"
    """Of the hang."""
    signal: str = "KILL"
    """What its client asks for: KILL, TERM or :data:`DEAF`."""
    after: float = 0.3
    """Seconds, of the timer that is to expire."""
    threads: int = 1
    blocks: int = 60
    """For each thread, before what the episode is about."""
    holders: int = 0
    """Threads that rest in an open block meanwhile."""
    busy: bool = False
    """Whether another thread is at work when it is killed."""
    in_thread: bool = False
    """Whether it hangs in another thread than the main one."""
    children: tuple[str, ...] = ()
    """What its forked children do."""

    def as_json(self) -> str:
        """For the command line of the worker."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Episode:
        """The reverse."""
        found = json.loads(text)
        return cls(**{**found, "children": tuple(found["children"])})

    def __str__(self) -> str:
        how = f" in {self.mode}, signal {self.signal}" if self.kind == "hangs" else ""
        return f"worker {self.number} ({self.kind}{how}, {self.pair})"

    @property
    def exit_status(self) -> int:
        """How it is to end, negative for a signal."""
        if self.kind == "leaves":
            return 3
        if self.kind == "is killed":
            return -9
        if self.kind == "hangs":
            return -15 if self.signal == "TERM" else -9
        return 0

    def child(self, index: int) -> Episode:
        """What its ``index``-th forked child does."""
        return dataclasses.replace(
            self, kind=self.children[index], seed=self.seed + 1000 * (index + 1), children=()
        )


def opening(pairs: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """One of everything: kind, pair, mode and signal."""
    calm = [kind for kind in KINDS if kind != "hangs"]
    hangs = [*((mode, "KILL") for mode in HANGS), ("sleep", "TERM"), ("lock", DEAF)]
    # Every hang once, and by every pair some; everything else by every pair.
    each = [(kind, pair, "sleep", "KILL") for kind in calm for pair in pairs]
    each += [("hangs", pairs[i % len(pairs)], *hang) for i, hang in enumerate(hangs)]
    return each


def episodes(seed: int, pairs: Sequence[str]) -> Iterator[Episode]:
    """The plan, without an end; whoever follows it stops when it likes."""
    chance = random.Random(seed)
    first = opening(pairs)
    chance.shuffle(first)
    number = 0
    while True:
        if number < len(first):
            kind, pair, mode, signal = first[number]
        else:
            kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
            pair = chance.choice(pairs)
            signal = chance.choice(("KILL", "KILL", "KILL", "TERM", DEAF))
            # SIGTERM waits for a stopped process to go on, and is no shorter way than DEAF then.
            modes = HANGS if signal == "KILL" else tuple(m for m in HANGS if m != "stopped")
            mode = chance.choice(modes if kind == "hangs" else _INTERRUPTIBLE)
        children: tuple[str, ...] = ()
        if kind == "forks":
            children = tuple(chance.choices(_CHILDREN, k=chance.randint(1, 3)))
            if number < len(first):
                children = ("works", "hangs", "is killed", "leaves")
        yield Episode(
            number=number,
            kind=kind,
            pair=pair,
            seed=chance.randrange(2**31),
            mode=mode,
            signal=signal,
            after=round(chance.uniform(0.1, 0.8), 3),
            threads=chance.choice((1, 1, 2, 4)),
            blocks=chance.choice((20, 60, 200)),
            holders=chance.choice((0, 0, 1, 3)),
            busy=chance.random() < 0.3 or number < len(first),
            in_thread=chance.random() < 0.3,
            children=children,
        )
        number += 1
