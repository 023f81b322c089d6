"""Stack dumps as people read them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from timers.linux.procfs import ProcessFacts
from timers.stacks.dump import Frame, StackDump, ThreadStack

FIT = Frame("fit", "/job/train.py", 12)
MODULE = Frame("<module>", "/job/train.py", 40)
WAIT = Frame("wait", "/lib/libc.so.6", 0)
MAIN = ThreadStack(frames=(FIT, MODULE), thread=7, name="MainThread", holds_gil=True, active=True)
LOADER = ThreadStack(frames=(WAIT,), thread=8, name="loader", active=True)
UNKNOWN = ThreadStack(frames=())
FACTS = ProcessFacts(
    state="sleeping",
    wait_channel="do_epoll_wait",
    system_call="232",
    cpu_seconds=1.5,
    resident_bytes=64 * 2**20,
    threads=3,
    open_files=9,
)
REST = "1.50 s CPU, 64 MiB resident, 3 threads, 9 open files"
DUMP = StackDump(
    pid=7,
    method="py-spy",
    threads=(MAIN, LOADER, UNKNOWN),
    facts=FACTS,
    seconds=0.0123,
    error="py-spy --native: timed out after 1 s",
)


def test_shows_everything() -> None:
    assert DUMP.render().splitlines() == [
        "Process 7, by py-spy, in 12 ms",
        f"  sleeping in do_epoll_wait, system call 232, {REST}",
        "Thread 7 (MainThread) [holds the GIL]",
        "  /job/train.py:12 fit",
        "  /job/train.py:40 <module>",
        "Thread 8 (loader) [running]",
        "  /lib/libc.so.6 wait",
        "Thread (unknown id)",
        "  (no Python frames)",
        "Note: py-spy --native: timed out after 1 s",
    ]


def test_shows_that_nothing_is_known() -> None:
    dump = StackDump(pid=7, method="proc", error="process 7 is gone")
    assert dump.render() == "Process 7, facts only, in 0 ms\nNote: process 7 is gone"
    assert dump.summary() == "no Python stack"
    assert dump.thread() is None


def test_finds_threads() -> None:
    assert DUMP.thread() is MAIN
    assert DUMP.thread(8) is LOADER
    assert DUMP.thread(99) is None
    without_main = StackDump(pid=7, method="py-spy", threads=(LOADER,))
    assert without_main.thread() is LOADER


def test_summarizes_a_thread() -> None:
    assert DUMP.summary() == "fit (/job/train.py:12)"
    assert DUMP.summary(8) == "wait (/lib/libc.so.6)"
    assert DUMP.summary(99).startswith(
        "no Python stack; sleeping in do_epoll_wait, system call 232"
    )


def test_names_of_the_process_cannot_break_lines_or_drive_a_terminal() -> None:
    frame = Frame("f\x1b[2J", "a\nb\u2028.py" + "x" * 1000, 3)
    stack = ThreadStack(frames=(frame,), thread=7, name="w\u00f6rker\r(1)")
    dump = StackDump(pid=7, method="py-spy", threads=(stack,))
    head, thread, call = dump.render().splitlines()
    assert head.startswith("Process 7")
    assert thread == "Thread 7 (w\u00f6rker\\r(1))"
    assert call.startswith("  a\\nb\\u2028.py")
    assert call.endswith("...:3 f\\x1b[2J")
    assert len(dump.summary()) < 400


def test_both_ends_of_a_deep_stack_are_shown() -> None:
    frames = tuple(Frame(f"f{number}", "x.py", number + 1) for number in range(1000))
    dump = StackDump(pid=7, method="py-spy", threads=(ThreadStack(frames=frames, thread=7),))
    lines = dump.render(max_frames=8).splitlines()[2:]
    assert lines[:6] == [f"  x.py:{number + 1} f{number}" for number in range(6)]
    assert lines[6] == "  ... 992 more ..."
    assert lines[7:] == ["  x.py:999 f998", "  x.py:1000 f999"]
    assert len(dump.render(max_frames=1000).splitlines()) == 1002


def test_the_number_of_threads_left_out_is_shown() -> None:
    threads = tuple(ThreadStack(frames=(FIT,), thread=number) for number in range(1, 11))
    lines = StackDump(pid=1, method="py-spy", threads=threads).render(max_threads=4).splitlines()
    assert [line for line in lines if line.startswith("Thread")] == [
        f"Thread {number}" for number in range(1, 5)
    ]
    assert lines[-1] == "... and 6 more threads"


@given(depth=st.integers(0, 40), most=st.integers(0, 50))
def test_as_many_calls_as_asked_for(depth: int, most: int) -> None:
    threads = (ThreadStack(frames=(FIT,) * depth, thread=7),)
    text = StackDump(pid=7, method="py-spy", threads=threads).render(max_frames=most)
    assert text.count("train.py") == min(depth, most)
    left_out = depth - min(depth, most)
    assert ("more ..." in text) is (left_out > 0)
    assert left_out == 0 or f"... {left_out} more ..." in text
