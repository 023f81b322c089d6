"""The board: the deadlines of one worker process, in memory that it shares with its server.

A worker makes a board (memfd_create(2)), maps it and hands it to the server over the Unix socket
(SCM_RIGHTS). A **slot** of it is one scope in one thread. To enter a block the worker stores its
deadline and its state there, to leave it the state again: no system call, no message. The server
reads. This module says where everything lies; :mod:`timers.worker._board` writes it,
:mod:`timers.server.boards` reads it.

Everything is an 8-byte signed integer, 8 bytes aligned, of the machine's own byte order (both
sides are on one machine), and has one writer. Such a store or load is one instruction on x86-64
and aarch64, so that nobody ever sees half of one.

The **state** of a slot decides: ``acquires << 16 | depth``, where ``depth`` is how many blocks of
that scope are open in that thread. One store makes a block open and counts it; one store closes it
and counts that, because the releases are ``acquires - depth + extra``. There is no moment in which
a block is open and not counted, or left and armed, wherever the worker is interrupted or killed.

What order the two sides see
----------------------------
The worker stores the deadline before the state. x86-64 keeps the order of stores and of loads;
aarch64 does not, and both let a store wait a moment (in the store buffer) behind later loads. So:

* *A new state beside an old deadline* (aarch64): the server expires a slot only when two looks, a
  :data:`MOMENT_NS` apart, found the same state and the same deadline, passed at the first one. By
  the second look every store from before the first one has arrived: store buffers drain within
  less than a microsecond, and interrupts and context switches, which are all that can keep a
  thread from going on for longer, drain them as well.
* *A release in time* is a store from before the deadline, so it is seen by a look a moment after
  it. It is the worker's last word on that block, and no later store brings that state back:
  ``acquires`` only grows.
* *A new deadline that is earlier than the server's next look*: the server publishes when it will
  look next (:data:`LOOK`). The worker stores its deadline, then loads that word, and sends a
  wake-up when its deadline comes first. Both may pass each other: the worker reads the old word
  while the server, which is just about to publish a later one, does not see the new deadline yet.
  Therefore the server looks once more, a moment after it has published a later time; a store from
  before the worker's load has arrived by then. A worker that loads later sees the new word.
* *A wake-up that is not sent again*: one that the server has not acted on will do for later
  deadlines too, so that a server that is stopped costs nothing. Whether it has is not to be seen
  from the time of its next look, which may be the same as before. So the server counts its looks
  (:data:`LOOKED`), before it looks, and a worker sends another wake-up when that has changed. Both
  may pass each other here as well: the server looks once more, a moment after each wake-up.

The server trusts nothing: it checks seals and size before it maps a board, so that no later
truncation can cost it a SIGBUS (memfd_create(2), F_ADD_SEALS), and every value that it reads.
"""

from __future__ import annotations

import mmap

__all__ = [
    "ACQUIRE",
    "AFTER",
    "CAPACITY",
    "CLOSED",
    "COUNTED_LOST",
    "COUNTED_RELEASES",
    "COUNTED_STATE",
    "COUNTED_WORDS",
    "COUNT_WORDS",
    "DEPTH",
    "DEPTH_BITS",
    "DURATIONS",
    "DURATION_BUCKETS",
    "DURATION_NS",
    "ENTER",
    "EPOCH",
    "EXTRA",
    "HEADER_WORDS",
    "INFO_WORDS",
    "LONGEST_STEADY",
    "LONGEST_WARM_UP",
    "LOOK",
    "LOOKED",
    "LOST",
    "LOST_RELEASES",
    "MAGIC",
    "MAGIC_WORD",
    "MAX_DEPTH",
    "MOMENT_NS",
    "MONOTONIC",
    "MOVED",
    "MOVED_FROM",
    "NAME_AT",
    "NAME_BYTES",
    "NAME_LENGTH",
    "NONE",
    "RATIOS",
    "RATIO_BUCKETS",
    "RATIO_SUM",
    "SAMPLE_FROM_NS",
    "SAMPLE_SHARE",
    "SERVED",
    "SHORT_AFTER",
    "SHORT_NS",
    "SIGNAL",
    "SLOTS",
    "STARTED",
    "THREAD",
    "UNRATED",
    "UNTIMED",
    "USED",
    "VERSION",
    "VERSION_WORD",
    "WALL",
    "WANTS",
    "WARM_UPS",
    "WARM_UP_NS",
    "WARM_UP_USES",
    "WARN",
    "Layout",
    "releases",
]

NONE = 2**63 - 1
"""The deadline of a slot without an open block."""
DEPTH_BITS = 16
DEPTH = (1 << DEPTH_BITS) - 1
ACQUIRE = 1 << DEPTH_BITS
ENTER = ACQUIRE + 1
MAX_DEPTH = 10_000
"""Blocks of one scope that may be open in one thread; those beyond are counted and not nested."""
MOMENT_NS = 500_000
"""How long a store takes to arrive, with a thousand times to spare."""

# -- the header: words of the worker, then, 4 KiB further on, those of the server ------------------
# Whatever the size of a page, which is 64 KiB on some machines with aarch64.
MAGIC_WORD = int.from_bytes(b"timers\x00\x01", "little")
MAGIC, VERSION_WORD, SLOTS, USED, LOST, LOST_RELEASES, CLOSED, MONOTONIC, WALL = range(9)
EPOCH, MOVED_FROM = range(WALL + 1, WALL + 3)
"""What it is, which version, how many slots there are, how many are in use (published after
their names), how many acquires and how many releases were not sent to a server that wanted their
events, whether the client is no more,
and what two clocks showed when the board was handed over (CLOCK_MONOTONIC and CLOCK_REALTIME, ns):
in a time namespace of its own a worker has another monotonic clock (time_namespaces(7)). And by how
much the second was ahead of the first when the board was made, so that a deadline on the wall stays
what it was whoever reads it. Last, which memory (its inode) everything was moved here from, by a
worker that lost every descriptor of that one and cannot hand it to anybody any more."""
MOVED = 2
"""What stands in ``CLOSED`` of a board that everything was moved from, before it is: nothing there
expires any more. The server goes on with the new one, slot by slot, from what it has counted."""
VERSION = 1
LOOK = 512
"""When the server looks next (CLOCK_MONOTONIC, ns); 0 before it has the board, so that nobody
sends it anything; :data:`NONE` when it wants to hear of each block."""
SERVED = LOOK + 1
"""A number that changes with each server that takes the board over."""
WANTS = LOOK + 2
"""Whether it wants each acquire and release as a message as well, for its log or its spans."""
SAMPLE_FROM_NS = LOOK + 3
"""Blocks with at least this deadline are sampled ..."""
SAMPLE_SHARE = LOOK + 4
"""... first after this many thousandths of it."""
LOOKED = LOOK + 5
"""How often the server has looked, or begun to."""
COUNTED_LOST = LOOK + 6
"""How many of ``LOST`` a server has counted, and, in the next word, of ``LOST_RELEASES``."""
HEADER_WORDS = 2 * LOOK

# -- of each slot: what describes its block --------------------------------------------------------
AFTER, STARTED, WARN, EXTRA, THREAD, SIGNAL, NAME_AT, NAME_LENGTH, SHORT_AFTER = range(9)
"""The countdown (ns); when the block began where that is not deadline less countdown, else 0; when
to warn, in ns after the countdown began, 0 for never; releases beyond those that the state says;
the thread's native id; which signal to send; where in the names its scope stands; and of which
countdown the blocks are whose time is in ``SHORT_NS``."""
INFO_WORDS = 16

# -- of each slot: what is counted -----------------------------------------------------------------
DURATION_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds, in seconds, of how long blocks take."""
RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.5)
"""Upper bounds of which share of its deadline a block takes."""
WARM_UP_USES = 3
"""How many uses of a scope by one worker count as its warm-up."""

UNTIMED, UNRATED, SHORT_NS = range(3)
"""Releases without a duration (of nothing) and without a share (a deadline of 0 s), and the time
that blocks in the lowest bucket of both kinds took. How many those are follows: every release that
is counted nowhere else."""
DURATIONS = SHORT_NS + 1
"""Blocks by duration, but for the short ones; the last one is for those beyond every bound."""
DURATION_NS = DURATIONS + len(DURATION_BUCKETS) + 1
"""How long they took, in all."""
RATIOS = DURATION_NS + 1
RATIO_SUM = RATIOS + len(RATIO_BUCKETS) + 1
"""The sum of the shares, in billionths."""
WARM_UPS = RATIO_SUM + 1
"""Those of ``DURATIONS`` that were warm-up."""
WARM_UP_NS = WARM_UPS + len(DURATION_BUCKETS) + 1
LONGEST_WARM_UP, LONGEST_STEADY = WARM_UP_NS + 1, WARM_UP_NS + 2
COUNT_WORDS = LONGEST_STEADY + 1

COUNTED_STATE, COUNTED_RELEASES = range(COUNT_WORDS, COUNT_WORDS + 2)
"""Behind a copy of all of these, with what is counted in the first buckets: the state as the server
has counted it, and how many releases."""
COUNTED_WORDS = COUNT_WORDS + 2

CAPACITY = 4096
"""Slots of a board; pages of it that nobody uses cost nothing."""
NAME_BYTES = 1 << 20
"""Room for the names of scopes."""


class Layout:
    """Where everything lies on a board of ``slots`` slots; all but ``names`` and ``size`` in words.

    ``deadlines``, ``states`` and ``leads`` (how long before its deadline the server wants to look
    at a block) have a word for each slot, so that one look at all of them is quick. ``infos``,
    ``counts`` (written by the worker) and ``counted`` (what the server has counted of them, so that
    the next server goes on from there) have a row for each slot.
    """

    def __init__(self, slots: int = CAPACITY, name_bytes: int = NAME_BYTES) -> None:
        self.slots = slots
        self.name_bytes = name_bytes
        self.deadlines = HEADER_WORDS
        self.states = self.deadlines + slots
        self.leads = self.states + slots
        self.infos = self.leads + slots
        self.counts = self.infos + slots * INFO_WORDS
        self.counted = self.counts + slots * COUNT_WORDS
        self.words = self.counted + slots * COUNTED_WORDS
        self.names = self.words * 8
        """In bytes."""
        unrounded = self.names + name_bytes
        self.size = -(-unrounded // mmap.PAGESIZE) * mmap.PAGESIZE
        """In bytes, whole pages."""


def releases(state: int, extra: int) -> int:
    """How many blocks were left, and timers released, by ``state`` and ``EXTRA``."""
    return (state >> DEPTH_BITS) - (state & DEPTH) + extra
