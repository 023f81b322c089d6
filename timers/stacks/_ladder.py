"""The rungs by which a stack is taken, from the best to the one that always works.

Decision: py-spy runs without pausing the process, since that works on stopped and uninterruptible
processes and disturbs nothing. A process that runs Python code at full speed changes faster than
it can be read: there two of three tries fail, so after a few of them it is paused for the few
milliseconds that a dump takes, unless one of its threads is in a state in which that would hang.

A server imports this module when it starts: on the day of the hang the file system may be what
hangs.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from timers.bounded import left
from timers.linux import procfs
from timers.linux.process import exists

from ._parsing import Failure, explain, parse_py_spy, parse_pystack
from .tools import find, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .dump import Attempt, ThreadStack

    Parser = Callable[[bytes], tuple[ThreadStack, ...] | None]

_PY_SPY_SHARE = 0.6
_NATIVE_SHARE = 0.5
_PYSTACK_SHARE = _ALL_BUT_ENDING = 0.8
"""Of what is left then; the rest is for ending it, so that its failure is reported in time."""
_UNPAUSABLE = frozenset("DTtZX")
"""States (proc(5)) in which attaching to a thread fails or waits until it leaves the state."""


def climb(attempt: Attempt) -> None:
    """Fill ``attempt`` with the facts and, from the first rung that works, the stacks.

    Keeps to its bound as long as the kernel answers;
    :func:`timers.stacks.take.take` guards the rest.
    """
    pid = attempt.pid
    if pid <= 0:
        attempt.errors.append(f"{pid} is not the id of a process")
        return
    began = procfs.start_time(pid)
    attempt.facts = procfs.facts(pid)
    missing = _why_missing(attempt)
    if missing is not None:
        attempt.errors.append(missing)
        return
    rungs = (("py-spy", _py_spy), ("pystack", _pystack))
    for method, rung in rungs[: 1 if attempt.only_native else None]:
        threads = rung(attempt)
        if isinstance(threads, str):
            attempt.errors.append(threads)
            continue
        if procfs.start_time(pid) != began:
            attempt.errors.append(f"process {pid} ended while its stack was taken")
            return
        attempt.method = method
        attempt.threads = _completed(threads, pid)
        return


def _why_missing(attempt: Attempt) -> str | None:
    facts = attempt.facts
    if facts.state is None:
        if not exists(attempt.pid):  # one that does is hidden by the mount option hidepid of /proc
            return f"process {attempt.pid} is gone"
    # With other threads alive it is only the main thread that has ended.
    elif facts.state in ("zombie", "dead") and (facts.threads or 0) <= 1:
        return f"process {attempt.pid} has exited and waits for its parent to notice (a zombie)"
    return None


def _completed(threads: tuple[ThreadStack, ...], pid: int) -> tuple[ThreadStack, ...]:
    """Put the main thread first, and the kernel's names where Python has none."""
    names = procfs.thread_names(pid) if any(not stack.name for stack in threads) else {}
    return tuple(
        stack
        if stack.name or stack.thread is None
        else dataclasses.replace(stack, name=names.get(stack.thread) or None)
        for stack in sorted(threads, key=lambda stack: stack.thread != pid)
    )


def _py_spy(attempt: Attempt) -> tuple[ThreadStack, ...] | str:
    """Return the stacks or, as a line for ``errors``, why there are none: so does each rung."""
    path, problem = find("py-spy", "TIMERS_PY_SPY")
    if path is None:
        return f"py-spy: {problem}"
    command = [path, "dump", "--json", "--pid", str(attempt.pid)]
    if attempt.only_native:
        return _py_spy_native(attempt, command, _ALL_BUT_ENDING * left(attempt.until))
    until = time.monotonic() + _PY_SPY_SHARE * left(attempt.until)
    if attempt.native:
        threads = _py_spy_native(attempt, command, _NATIVE_SHARE * left(until))
        if not isinstance(threads, str):
            return threads
        attempt.errors.append(threads)
    failure = Failure("no time left")
    for options in _py_spy_tries(attempt.pid):
        if left(until) == 0:
            break
        result = _ask(attempt.pid, [*command, *options], parse_py_spy, left(until))
        if not isinstance(result, Failure):
            return result
        failure = result
        if not failure.transient:
            break
    return f"py-spy: {failure.reason}"


def _py_spy_native(
    attempt: Attempt, command: list[str], timeout: float
) -> tuple[ThreadStack, ...] | str:
    # py-spy refuses --native together with --nonblocking.
    if not _pausable(attempt.pid):
        return (
            "py-spy --native: not tried, it would have to pause a process that cannot be paused "
            f"(state: {attempt.facts.state or 'unknown'})"
        )
    result = _ask(attempt.pid, [*command, "--native"], parse_py_spy, timeout)
    return f"py-spy --native: {result.reason}" if isinstance(result, Failure) else result


def _py_spy_tries(pid: int) -> Iterator[tuple[str, ...]]:
    for _ in range(3):
        yield ("--nonblocking",)
    # Even a paused try fails now and then: py-spy looks for the interpreter before it pauses.
    for _ in range(3):
        yield () if _pausable(pid) else ("--nonblocking",)


def _pausable(pid: int) -> bool:
    states = procfs.thread_states(pid)
    return bool(states) and not _UNPAUSABLE.intersection(states.values())


def _pystack(attempt: Attempt) -> tuple[ThreadStack, ...] | str:
    path, problem = find("pystack", "TIMERS_PYSTACK")
    if path is None:
        return f"pystack (optional): {problem}"
    command = [path, "remote", "--no-block", str(attempt.pid)]
    timeout = _PYSTACK_SHARE * left(attempt.until)
    result = _ask(attempt.pid, command, parse_pystack, timeout)
    return f"pystack: {result.reason}" if isinstance(result, Failure) else result


def _ask(
    pid: int, command: list[str], parse: Parser, timeout: float
) -> tuple[ThreadStack, ...] | Failure:
    ran = run(command, timeout=timeout)
    if ran.problem is not None:
        return Failure(ran.problem)
    if ran.code != 0:
        return explain(pid, ran.code, ran.errors)
    threads = parse(ran.output)
    if threads is None:
        start = ran.output[:80].decode("utf-8", "replace")
        return Failure(f"printed something else than stacks: {start!r}")
    if not any(stack.frames for stack in threads):
        return Failure("found no Python frames", transient=True)
    return threads
