"""What a worker does, in words: after its name in a sentence, and for a group of workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from observability.samples.frames import library_path
from observability.samples.reading import Condition
from observability.samples.types import Pace
from observability.samples.waits import Peers, Wait

from .verdict.links import link_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from observability.samples.reading import Reading
    from observability.samples.types import Descendant

    from .verdict.case import Case
    from .verdict.collectives import Collectives

_GROUP_WORDS = {
    Wait.COMPUTE: "running",
    Wait.DEVICE: "waiting for a GPU",
    Wait.ASKING: "asking again and again",
    Wait.SLEEP: "sleeping",
    Wait.STORAGE: "waiting for storage",
    Wait.LOCK: "waiting for a lock",
    Wait.CHILD: "waiting for a child process",
    Wait.THREAD: "waiting for another thread",
    Wait.QUEUE: "waiting for a queue",
    Wait.NETWORK: "waiting for a socket",
    Wait.PIPE: "waiting for a pipe",
    Wait.EVENT_LOOP: "idle in an event loop",
    Wait.GIL: "waiting for the GIL",
    Wait.SIGNAL: "waiting for a signal",
}
_ON_A_LINK = frozenset({Wait.LOCK, Wait.NETWORK, Wait.PIPE, Wait.QUEUE, Wait.STORAGE, Wait.UNKNOWN})
_CONDITION_WORDS = {
    Condition.GONE: "gone",
    Condition.STOPPED: "stopped",
    Condition.TRACED: "held by a debugger",
    Condition.UNINTERRUPTIBLE: "in an uninterruptible wait",
    Condition.BLIND: "without a stack",
}


_KINDS_OF_CHILDREN = {
    "torch/utils/data/_utils/worker.py": "DataLoader worker",
    "multiprocessing/pool.py": "pool worker",
    "concurrent/futures/process.py": "pool worker",
}


def place(case: Case, waiting_in: Mapping[int, str]) -> str:
    """Say what the workers of a group do: ``waiting in all_reduce``, ``sleeping``.

    :param waiting_in: the operations in which workers wait, by position, as the recorder has them.
    """
    reading = case.reading
    known = _CONDITION_WORDS.get(reading.condition)
    if known is not None:
        return known
    if case.index in waiting_in and not reading.moves:
        return f"waiting in {waiting_in[case.index]}"
    what = _GROUP_WORDS.get(reading.reason.wait, "waiting")
    if not reading.reason.operation:
        return what
    if reading.reason.peers is not Peers.BY_NAME:
        what = "waiting"  # What it is called says more than on what it sleeps.
    return f"{what} in {reading.reason.operation}"


def state(case: Case, found: Collectives, cases: Sequence[Case]) -> str:
    """Say what one worker does, as words that follow its name: ``is stuck: it sleeps``."""
    reading = case.reading
    if reading.condition is Condition.BLIND and not case.view.samples and case.view.scope_id:
        return f"was inside scope {case.view.scope_id!r} when it was ended"
    if case.index in found.waiting_in and reading.condition is Condition.RUNNING:
        return f"waits in {found.waiting_in[case.index]}"
    if reading.child is not None and reading.child_reading is not None:
        unread = reading.child_reading.condition is Condition.BLIND
        how = "" if unread else f", which {_state(reading.child_reading)}"
        return f"waits for {_child(reading.child, reading.child_reading)}{how}"
    around = case.view.surroundings
    asked = f": {around.source.head!r}" if around.source and around.source.head else ""
    return _state(reading, link_words(case, cases), asked)


def _child(child: Descendant, found: Reading) -> str:
    paths = {library_path(frame.file) for frame in found.frames}
    kind = next((kind for path, kind in _KINDS_OF_CHILDREN.items() if path in paths), None)
    if kind is not None:
        return f"its {kind} (pid {child.pid})"
    return f"its child process {child.pid}" + (f" ({child.command})" if child.command else "")


def _state(reading: Reading, link: str | None = None, asked: str = "") -> str:
    if reading.condition is Condition.GONE:
        return reading.gone or reading.condition.value
    if reading.condition not in (Condition.RUNNING, Condition.WAITING):
        return str(reading.condition.value)
    if reading.reason.wait is Wait.ASKING:
        spins = "spins: it " if reading.pace is Pace.SPINNING else ""
        return f"{spins}{reading.reason.wait.value}{asked}"
    computes = reading.reason.wait is Wait.COMPUTE
    moves = {
        Pace.SPINNING: "spins: it stays in one function with the CPU busy",
        Pace.SLOW: "computes" if computes else "still moves",
        Pace.REPEATING: "sleeps again and again",
    }
    if reading.pace in moves:
        return moves[reading.pace]
    how = _wait(reading, link)
    return f"is stuck: it {how}" if reading.pace is Pace.STUCK else how


def _wait(reading: Reading, link: str | None) -> str:
    how, operation = str(reading.reason.wait.value), reading.reason.operation
    if reading.holds_gil:
        return "sleeps in C code that holds the GIL"
    if reading.idle_children:
        return f"{how}, and its child processes wait for work"
    if link is not None and reading.reason.wait in _ON_A_LINK:
        how = f"waits for {link}"
    elif operation and reading.reason.peers is not Peers.BY_NAME:
        return f"waits in {operation}"
    return f"{how} in {operation}" if operation else how
