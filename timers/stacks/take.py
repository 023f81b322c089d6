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

import threading
import time
from dataclasses import dataclass, field

from timers.linux.procfs import ProcessFacts

from ._text import render_dump, summarize

__all__ = ["Frame", "StackDump", "ThreadStack", "take"]

_LONGEST_SECONDS = 3600.0
_GRACE_SECONDS = 0.1
"""How long the last rung may overrun before it is left behind; part of the bound of take()."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One call: where it is in which file."""

    function: str
    file: str
    line: int
    """From 1; 0 when unknown (native frames without debugging information)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadStack:
    """One thread of the process."""

    frames: tuple[Frame, ...]
    """Innermost call first."""
    thread: int | None = None
    """Native thread id, as in ``TimerInfo.thread``."""
    name: str | None = None
    """Python's name for it, else the kernel's."""
    holds_gil: bool = False
    active: bool = False
    """Whether it was on a CPU (or holding the GIL) rather than waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackDump:
    """The stacks of one process at one moment, or the reason why there are none."""

    pid: int
    method: str
    """Which rung of the ladder worked: ``py-spy``, ``pystack``, ``proc`` (facts only)."""
    threads: tuple[ThreadStack, ...] = ()
    """The main thread first."""
    facts: ProcessFacts = field(default_factory=ProcessFacts)
    seconds: float = 0.0
    """How long it took."""
    extras: tuple[tuple[str, object], ...] = ()
    """More that is known of the process, as named fields for the event."""
    error: str | None = None
    """Why a better rung did not work (one line each); None when the first one did."""

    def thread(self, native_id: int | None = None) -> ThreadStack | None:
        """Return the thread with this native id; without one the main thread, else the first.

        None when the dump has no such thread.
        """
        wanted = self.pid if native_id is None else native_id
        for stack in self.threads:
            if stack.thread == wanted:
                return stack
        return self.threads[0] if native_id is None and self.threads else None

    def summary(self, native_id: int | None = None) -> str:
        """Say in one line where a thread (default: the main one) is: ``function (file:line)``.

        Without a stack it says what the kernel knows instead.
        """
        return summarize(self, native_id)

    def render(self, *, max_frames: int = 60, max_threads: int = 100) -> str:
        """Write the dump as text for people, several lines without a final newline.

        Control characters of the process's own names are escaped. Of a stack deeper than
        ``max_frames`` both ends are shown and the number left out is said; likewise for threads
        beyond ``max_threads``.
        """
        return render_dump(self, max_frames=max_frames, max_threads=max_threads)


@dataclass(slots=True)
class Attempt:
    """What is known so far while a dump is being taken; one thread writes, one reads at the end."""

    pid: int
    native: bool
    deadline: float
    """On the clock of ``time.monotonic``."""
    method: str = "proc"
    threads: tuple[ThreadStack, ...] = ()
    facts: ProcessFacts = field(default_factory=ProcessFacts)
    errors: list[str] = field(default_factory=list)


def take(pid: int, *, timeout: float = 5.0, native: bool = False) -> StackDump:
    """Take the stacks of ``pid`` within ``timeout`` seconds; never raises.

    ``timeout`` is clamped to 0...3600 seconds and holds (plus a tenth of a second) even when a
    tool hangs and cannot be killed, or when reading /proc blocks: what does not return is left to
    a daemon thread. ``native`` adds C frames where possible; that pauses the process for some
    milliseconds, and a tool that has to be killed while it does so may leave it stopped.

    The environment variables ``TIMERS_PY_SPY`` and ``TIMERS_PYSTACK`` name an executable to use in
    place of those found next to the interpreter or in PATH.

    From any thread. The caller makes sure that ``pid`` is still the process it means, for example
    by holding a pidfd; a process replaced *during* the dump is noticed and reported.
    """
    started = time.monotonic()
    # "not >" also catches NaN.
    seconds = min(timeout, _LONGEST_SECONDS) if timeout > 0 else 0.0
    attempt = Attempt(pid=pid, native=native, deadline=started + seconds)
    thread = threading.Thread(
        target=_climb, args=(attempt,), name=f"stack dump of {pid}", daemon=True
    )
    try:
        thread.start()
    except RuntimeError as error:  # out of threads, or the interpreter is ending
        attempt.errors.append(f"no thread to take the stack with: {error}")
    else:
        thread.join(seconds + _GRACE_SECONDS)
        if thread.is_alive():
            attempt.errors.append(f"gave up: not done within {seconds:g} s")
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
