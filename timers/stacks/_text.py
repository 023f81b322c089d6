"""A stack dump as text: what a person reads in a log, a terminal or a status page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timers.linux.procfs import ProcessFacts

    from .take import Frame, StackDump, ThreadStack

__all__ = ["render_dump", "summarize"]

_LONGEST_NAME = 300
_MEBIBYTE = 1024 * 1024


def summarize(dump: StackDump, native_id: int | None) -> str:
    """Say in one line where a thread is, or what the kernel says when there is no stack."""
    stack = dump.thread(native_id)
    if stack is not None and stack.frames:
        frame = stack.frames[0]
        return f"{_printable(frame.function)} ({_place(frame)})"
    facts = _describe(dump.facts)
    return f"no Python stack; {facts}" if facts else "no Python stack"


def render_dump(dump: StackDump, *, max_frames: int, max_threads: int) -> str:
    """Write the whole dump, a header, each thread with its innermost call first, the failures."""
    how = "facts only" if dump.method == "proc" else f"by {dump.method}"
    lines = [f"Process {dump.pid}, {how}, in {dump.seconds * 1000:.0f} ms"]
    facts = _describe(dump.facts)
    if facts:
        lines.append(f"  {facts}")
    for stack in dump.threads[:max_threads]:
        lines.append(_heading(stack))
        lines.extend(f"  {line}" for line in _calls(stack.frames, max_frames))
    if len(dump.threads) > max_threads:
        lines.append(f"... and {len(dump.threads) - max_threads} more threads")
    notes = (dump.error or "").splitlines()
    lines.extend(f"Note: {_printable(note, longest=1000)}" for note in notes)
    return "\n".join(lines)


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
