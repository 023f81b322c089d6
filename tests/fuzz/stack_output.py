"""What the stack tools print: any bytes, read as the output of each, and shown as the log does."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from observability.fields import stack_fields
from observability.hang.json import view_from
from observability.hang.report import analyse
from observability.hang.text import render
from timers.stacks._parsing import explain, parse_py_spy, parse_pystack
from timers.stacks.dump import StackDump, ThreadStack

from .target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .target import Try

__all__ = ["TARGET", "check_output"]


def check_output(data: bytes) -> None:
    """Everything that holds for any output."""
    for parse in (parse_py_spy, parse_pystack):
        threads = parse(data)
        assert threads is None or isinstance(threads, tuple)
        if threads is not None:
            _check_threads(threads)
    failure = explain(4711, len(data) % 3 - 1, data)
    assert failure.reason
    assert "\n" not in failure.reason
    failure.reason.encode()
    _check_dump(StackDump(pid=4711, method="proc", error=failure.reason))


def _check_threads(threads: tuple[ThreadStack, ...]) -> None:
    for thread in threads:
        assert thread.thread is None or 0 < thread.thread < 2**31
        for frame in thread.frames:
            assert frame.line >= 0
            assert isinstance(frame.file, str)
            assert isinstance(frame.function, str)
    _check_dump(StackDump(pid=4711, method="py-spy", threads=threads))


def _check_dump(dump: StackDump) -> None:
    text = dump.render(max_frames=20, max_threads=10)
    for line in (dump.summary(1), *text.split("\n")):
        assert line.isprintable(), line
        line.encode()
    fields = stack_fields(dump, None)
    written = json.dumps(fields, allow_nan=False, ensure_ascii=False)
    written.encode()
    # As another host's `timers report` reads it.
    view = view_from({"worker_pid": 4711, "expired": True, **json.loads(written)})
    render(analyse([view]), width=80)


@contextlib.contextmanager
def _open() -> Iterator[Try]:
    yield check_output


TARGET = Target(
    "output of the stack tools",
    _open,
    words=("stacks",),
)
