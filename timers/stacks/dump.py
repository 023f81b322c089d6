"""A stack dump: plain data, and the text that a person reads in a log, a terminal or a page."""

from __future__ import annotations

from dataclasses import dataclass, field

from timers.linux.procfs import ProcessFacts

__all__ = ["Attempt", "Frame", "StackDump", "ThreadStack"]

_LONGEST_NAME = 300
_MEBIBYTE = 1024 * 1024


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
        stack = self.thread(native_id)
        if stack is not None and stack.frames:
            frame = stack.frames[0]
            return f"{_printable(frame.function)} ({_place(frame)})"
        facts = _describe(self.facts)
        return f"no Python stack; {facts}" if facts else "no Python stack"

    def render(self, *, max_frames: int = 60, max_threads: int = 100) -> str:
        """Write the dump as text for people, several lines without a final newline.

        Control characters of the process's own names are escaped. Of a stack deeper than
        ``max_frames`` both ends are shown and the number left out is said; likewise for threads
        beyond ``max_threads``.
        """
        how = "facts only" if self.method == "proc" else f"by {self.method}"
        lines = [f"Process {self.pid}, {how}, in {self.seconds * 1000:.0f} ms"]
        facts = _describe(self.facts)
        if facts:
            lines.append(f"  {facts}")
        for stack in self.threads[:max_threads]:
            lines.append(_heading(stack))
            lines.extend(f"  {line}" for line in _calls(stack.frames, max_frames))
        if len(self.threads) > max_threads:
            lines.append(f"... and {len(self.threads) - max_threads} more threads")
        notes = (self.error or "").splitlines()
        lines.extend(f"Note: {_printable(note, longest=1000)}" for note in notes)
        return "\n".join(lines)


@dataclass(slots=True)
class Attempt:
    """A dump that is being taken: one thread writes it, another one reads it at the end."""

    pid: int
    native: bool
    only_native: bool
    until: float
    """By when to be done, on the clock of ``time.monotonic``."""
    method: str = "proc"
    threads: tuple[ThreadStack, ...] = ()
    facts: ProcessFacts = field(default_factory=ProcessFacts)
    errors: list[str] = field(default_factory=list)


def _heading(stack: ThreadStack) -> str:
    words = ["Thread", "(unknown id)" if stack.thread is None else str(stack.thread)]
    if stack.name:
        words.append(f"({_printable(stack.name)})")
    if stack.holds_gil:
        words.append("[holds the GIL]")
    elif stack.active:
        words.append("[running]")
    return " ".join(words)


def _calls(frames: tuple[Frame, ...], most: int) -> list[str]:
    if not frames:
        return ["(no Python frames)"]
    lines = [f"{_place(frame)} {_printable(frame.function)}" for frame in frames]
    if len(lines) <= most:
        return lines
    # Where it is stuck matters most; how it got there (the outermost calls) comes next.
    outer = most // 4
    left_out = len(lines) - most
    return [*lines[: most - outer], f"... {left_out} more ...", *lines[len(lines) - outer :]]


def _place(frame: Frame) -> str:
    file = _printable(frame.file)
    return f"{file}:{frame.line}" if frame.line > 0 else file


def _describe(facts: ProcessFacts) -> str:
    parts: list[str] = []
    if facts.state is not None:
        where = f" in {facts.wait_channel}" if facts.wait_channel else ""
        parts.append(f"{facts.state}{where}")
    if facts.system_call is not None and facts.system_call.isdecimal():
        parts.append(f"system call {facts.system_call}")
    if facts.cpu_seconds is not None:
        parts.append(f"{facts.cpu_seconds:.2f} s CPU")
    if facts.resident_bytes is not None:
        parts.append(f"{facts.resident_bytes / _MEBIBYTE:.0f} MiB resident")
    if facts.threads is not None:
        parts.append(f"{facts.threads} thread{'' if facts.threads == 1 else 's'}")
    if facts.open_files is not None:
        parts.append(f"{facts.open_files} open files")
    return ", ".join(parts)


def _printable(text: str, longest: int = _LONGEST_NAME) -> str:
    # The names come out of another process's memory: they must not break lines, drive a terminal
    # or flood a log.
    if len(text) > longest:
        text = f"{text[:longest]}..."
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
