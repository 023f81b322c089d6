"""Where a process is stuck, taken from outside and without its help, as plain data.

A ladder, each rung bounded in time and in output:

1. ``py-spy``, a subprocess that reads the other process's memory. It does not pause the process,
   except for a running one that changes under its eyes, and never one that is stopped or in an
   uninterruptible wait (it would hang with it).
2. ``pystack``, if installed: the same by other means.
3. The facts of :mod:`timers.linux.procfs`, which are always taken.

Nothing runs inside the stuck process. (A signal-driven dump would wake blocking C calls, and kill
a process that did not prepare for the signal.)

Stacks are those of threads. The tasks of an event loop are not among them: neither tool reports
them, a suspended coroutine being on nobody's stack; of an asyncio program one sees the loop.
A running process is read while it runs, so its frames may be from slightly different moments.
"""

from __future__ import annotations

import time
from functools import partial

from timers.bounded import call_until

from .dump import Attempt, Frame, StackDump, ThreadStack

__all__ = ["Frame", "StackDump", "ThreadStack", "take"]

_LONGEST_SECONDS = 3600.0
_LEAST_SECONDS = 0.1
"""For the facts of the last rung, which are taken however little time there is."""


def take(
    pid: int, *, timeout: float = 5.0, native: bool = False, only_native: bool = False
) -> StackDump:
    """Take the stacks of ``pid`` within ``timeout`` seconds; never raises.

    ``timeout`` is clamped to 0.1...3600 seconds and holds even when a tool hangs and cannot be
    killed, or when reading /proc blocks: what does not return is left to a daemon thread. No tool
    is started when it is 0 or less. ``native`` adds C frames where possible; that pauses the
    process for some milliseconds, one of torch for a second, and a tool that is killed meanwhile
    may leave it stopped. With ``only_native`` all of the time is for a stack with C frames, and
    there is none without them.

    The environment variables ``TIMERS_PY_SPY`` and ``TIMERS_PYSTACK`` name an executable to use in
    place of those found next to the interpreter or in PATH.

    From any thread. The caller makes sure that ``pid`` is still the process it means, for example
    by holding a pidfd; a process replaced *during* the dump is noticed and reported.
    """
    started = time.monotonic()
    # "not >" also catches NaN.
    seconds = min(timeout, _LONGEST_SECONDS) if timeout > 0 else 0.0
    attempt = Attempt(pid, native or only_native, only_native, until=started + seconds)
    bound = started + max(seconds, _LEAST_SECONDS)
    try:
        call_until(bound, partial(_climb, attempt), f"stack dump of {pid}")
    except TimeoutError:
        attempt.errors.append(f"gave up: not done within {seconds:g} s")
    except RuntimeError as error:  # out of threads, or the interpreter is ending
        attempt.errors.append(f"no thread to take the stack with: {error}")
    # The threads are set last by the other side: method first would be a stack without a method.
    threads = attempt.threads
    return StackDump(
        pid=pid,
        method=attempt.method if threads else "proc",
        threads=threads,
        facts=attempt.facts,
        seconds=time.monotonic() - started,
        error="\n".join(attempt.errors) or None,
    )


def _climb(attempt: Attempt) -> None:
    try:
        # Needs subprocess and json, which a worker that imports this package should not pay for.
        from ._ladder import climb  # noqa: PLC0415  # not for workers

        climb(attempt)
    except Exception as error:  # noqa: BLE001  # a dump that fails must not prevent the kill
        attempt.errors.append(f"unexpected {type(error).__name__}: {error}")
