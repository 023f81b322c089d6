"""What a thread waits for, judged from its innermost calls and from what the kernel says.

Three sources, the first that knows decides:

1. Python's own machinery of waiting (:mod:`threading`, :mod:`multiprocessing`, :mod:`subprocess`,
   torch.distributed and the like): the innermost calls that belong to it, taken together.
2. C frames, in a stack that has them.
3. The kernel function the process sleeps in (``wchan``), else its system call. Both are of the
   main thread, so they say nothing about another one.
"""

from __future__ import annotations

import enum
import platform
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ._wait_tables import (
    CALLS,
    CHANNELS,
    COLLECTIVE_WORDS,
    LOCAL_WORK,
    MAYBE_FOR_PEERS,
    NATIVE_RULES,
    NEAR,
    OPERATION_WORDS,
    POINT_TO_POINT,
    PYTHON_RULES,
    SCOPE_WORDS,
    Wait,
)
from .frames import c_frames, is_own, is_python, library_path, plain_function

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from timers.linux.procfs import ProcessFacts
    from timers.stacks.take import Frame

__all__ = ["Peers", "Reason", "Wait", "judge", "native_wait"]


class Peers(enum.IntEnum):
    """How sure it is that a worker waits for the other workers."""

    NO = 0
    BY_SCOPE = 1
    """Its timer is named like a collective operation, and it waits for something."""
    BY_LIBRARY = 2
    """It is inside a library call in which ranks usually wait for each other, and sometimes not."""
    BY_NAME = 3
    """A function of the job is named like one, and it waits in there."""
    CERTAIN = 4
    """It is inside an operation of a library that is known to wait for the others."""


class Reason(NamedTuple):
    """What a thread waits for."""

    wait: Wait
    peers: Peers = Peers.NO
    operation: str = ""
    """The name of the collective operation."""
    machinery: int = 0
    """How many of its innermost frames belong to the machinery of waiting."""


def judge(
    frames: Sequence[Frame],
    facts: ProcessFacts,
    *,
    is_main: bool,
    active: bool,
    scope_id: str | None = None,
    machine: str = platform.machine(),
) -> Reason:
    """Tell what a thread waits for.

    :param frames: innermost first, those of its own process only.
    :param is_main: whether it is the main thread, the one that most facts are about.
    :param active: whether it was on a CPU.
    :param machine: whose system calls the facts speak of.
    """
    running = active or (is_main and "running" in (facts.state, facts.system_call))
    found = _by_python(frames)
    if found is not None and found.peers is Peers.CERTAIN:
        working = running and plain_function(frames[0].function) in LOCAL_WORK
        return Reason(Wait.COMPUTE) if working else found
    native = native_wait(frames)
    if native is not None and native.wait in (Wait.COLLECTIVE, Wait.DEVICE):
        return native
    # A C function that blocks with the GIL held counts as active for py-spy, but it sleeps.
    if running and not (is_main and facts.state in ("sleeping", "uninterruptible")):
        return Reason(Wait.COMPUTE)
    if found is None:
        found = native or Reason(_by_kernel(facts, is_main=is_main, machine=machine))
    if found.wait not in MAYBE_FOR_PEERS:
        return found
    peers, operation = _for_peers(frames, found, scope_id)
    return found._replace(peers=peers, operation=operation)


def _for_peers(frames: Sequence[Frame], found: Reason, scope_id: str | None) -> tuple[Peers, str]:
    """How sure it is that a wait which may be for other workers is, and in what operation."""
    operation = _own_operation(frames)
    if operation is not None:
        return Peers.BY_NAME, operation
    if _in_backward(frames[: found.machinery]):
        return Peers.BY_LIBRARY, "backward"
    if scope_id is not None and SCOPE_WORDS.search(scope_id):
        return Peers.BY_SCOPE, scope_id
    return Peers.NO, ""


def _in_backward(machinery: Iterable[Frame]) -> bool:
    # Where data-parallel training waits for its gradients to be reduced, in C++: nothing in the
    # Python stack tells it from a backward pass that is stuck by itself.
    return any(frame.function == "_engine_run_backward" for frame in machinery)


def _own_operation(frames: Iterable[Frame]) -> str | None:
    """The collective that the job itself implements, when it waits in it or in a helper of it."""
    own = (plain_function(frame.function) for frame in frames if is_own(frame))
    return next((name for name in islice(own, NEAR) if COLLECTIVE_WORDS.search(name)), None)


def _by_python(frames: Sequence[Frame]) -> Reason | None:
    python = [frame for frame in frames if is_python(frame.file)]
    found: Reason | None = None
    between_processes = False
    for index, frame in enumerate(python):
        path = library_path(frame.file)
        if path is None:
            break
        function = plain_function(frame.function)
        known, rule = _rule(path, function)
        if not known:
            break
        between_processes |= path == "multiprocessing/synchronize.py"
        if rule is None:
            continue
        found = Reason(rule, machinery=index + 1)
        if rule is Wait.COLLECTIVE:
            return _collective(python, index)
        if path == "threading.py" and function == "_wait" and between_processes:
            # threading.Barrier, whose subclass in multiprocessing waits for other processes.
            return Reason(Wait.COLLECTIVE, Peers.CERTAIN, "barrier", _run_of(python, index, path))
    return found


@lru_cache(4096)
def _rule(path: str, function: str) -> tuple[bool, Wait | None]:
    """Whether the frame is machinery of waiting, and what it means; None for nothing by itself."""
    for where, what, wait in PYTHON_RULES:
        if where.match(path) and what.fullmatch(function):
            return True, wait
    return False, None


def _run_of(python: Sequence[Frame], index: int, path: str) -> int:
    while index < len(python) and library_path(python[index].file) == path:
        index += 1
    return index


def _collective(python: Sequence[Frame], index: int) -> Reason:
    """Name the outermost function of the collective library in this run of frames."""
    operation = ""
    end = index
    for end, frame in enumerate(python[index:], index):  # noqa: B007  # used after the loop
        path = library_path(frame.file)
        if path is None or _rule(path, plain_function(frame.function))[1] is not Wait.COLLECTIVE:
            break
        function = plain_function(frame.function)
        if function not in ("wrapper", "inner", "_fn"):
            operation = function
    else:
        end += 1
    if operation == "__init__":
        operation = "set-up of a distributed module"
    wait = Wait.POINT_TO_POINT if operation in POINT_TO_POINT else Wait.COLLECTIVE
    return Reason(wait, Peers.CERTAIN, operation, end)


def native_wait(frames: Sequence[Frame]) -> Reason | None:
    """Return what the C frames of a stack say its thread waits for; None when they say nothing."""
    wait = _by_native(frames)
    if wait is Wait.COLLECTIVE:
        return Reason(wait, Peers.CERTAIN, _native_operation(frames))
    return None if wait is None else Reason(wait)


def _by_native(frames: Sequence[Frame]) -> Wait | None:
    for frame in c_frames(frames):
        for words, wait in NATIVE_RULES:
            if words.search(frame.function) or (
                wait is Wait.COLLECTIVE and words.search(frame.file.rsplit("/", 1)[-1])
            ):
                break
        else:
            continue
        waits = (Wait.FUTEX, Wait.LOCK, Wait.POLL, Wait.NETWORK, Wait.DEVICE)
        collective = NATIVE_RULES[0][0]
        if wait in waits and any(collective.search(each.function) for each in c_frames(frames)):
            return Wait.COLLECTIVE
        return wait
    return None


def _native_operation(frames: Sequence[Frame]) -> str:
    # The outermost is what was called; further in, a reduction is made of sends and receives.
    names = [OPERATION_WORDS.search(frame.function) for frame in c_frames(frames)]
    return next((found[0].lower() for found in reversed(names) if found), "")


def _by_kernel(facts: ProcessFacts, *, is_main: bool, machine: str) -> Wait:
    if not is_main:
        return Wait.UNKNOWN
    if facts.wait_channel:
        for words, wait in CHANNELS:
            if words.search(facts.wait_channel):
                return wait
    return CALLS.get(machine, {}).get(facts.system_call or "", Wait.UNKNOWN)
