"""Real processes, stuck in every way we know, and their stacks."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.processes import VICTIMS, victim
from support.waiting import eventually
from timers.debug_info_logging import log_debug_info_for_expired_timers
from timers.linux.procfs import stat, thread_states
from timers.stacks import tools as stack_tools
from timers.stacks.take import take

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timers.stacks.dump import StackDump, ThreadStack

PYTHON = Path(sys.executable).resolve().name
FILE = str(VICTIMS / "stuck.py")

STATES = {
    "sleep": "S",
    "spin": "R",
    "churn": "R",
    "lock": "S",
    "read": "S",
    "gil": "S",
    "threads": "S",
    "stopped": "T",
    "uninterruptible": "D",
}


def frame_lines(stack: ThreadStack | None, function: str) -> list[int]:
    """Lines of the calls of the victim's function in a thread."""
    frames = () if stack is None else stack.frames
    return [frame.line for frame in frames if (frame.function, frame.file) == (function, FILE)]


def dump_in(pid: int, mode: str, *, native: bool = False) -> StackDump:
    """Take the stacks of the victim once it is where it gets stuck."""

    def probe() -> StackDump | None:
        found = stat(pid)
        if found is None or found.state != STATES[mode]:
            return None
        dump = take(pid, timeout=30, native=native)
        return dump if frame_lines(dump.thread(pid), f"stuck_here_{mode}") else None

    dump = eventually(probe, f"the victim is stuck in {mode}", timeout=90)
    assert dump is not None
    return dump


@pytest.mark.parametrize("mode", sorted(STATES))
def test_finds_where_each_victim_is_stuck(mode: str) -> None:
    with victim("stuck", mode) as process:
        dump = dump_in(process.pid, mode)
        main = dump.thread()
        assert dump.pid == process.pid
        assert dump.method == "py-spy"
        assert dump.error is None
        assert main is dump.threads[0]
        assert main is not None
        assert main.thread == process.pid
        assert main.frames[-1].function == "<module>"
        [line] = frame_lines(main, f"stuck_here_{mode}")
        assert line > 0
        assert dump.facts.state is not None
        assert f"{FILE}:{line} stuck_here_{mode}" in dump.render()


@pytest.mark.parametrize("mode", ["sleep", "lock", "read", "gil", "stopped"])
def test_the_call_that_blocks_is_the_innermost(mode: str) -> None:
    with victim("stuck", mode) as process:
        dump = dump_in(process.pid, mode)
        main = dump.thread()
        assert main is not None
        assert main.frames[0].function == f"stuck_here_{mode}"
        assert dump.summary() == f"stuck_here_{mode} ({FILE}:{main.frames[0].line})"


def test_the_thread_that_holds_the_gil_is_told() -> None:
    with victim("stuck", "gil") as holding, victim("stuck", "sleep") as releasing:
        held = dump_in(holding.pid, "gil")
        released = dump_in(releasing.pid, "sleep")
    assert [stack.holds_gil for stack in held.threads] == [True]
    assert [stack.holds_gil for stack in released.threads] == [False]
    assert "[holds the GIL]" in held.render()
    assert "[holds the GIL]" not in released.render()


def test_every_thread_is_there_by_name_and_native_id() -> None:
    with victim("stuck", "threads") as process:
        native_ids = {int(entry.name) for entry in Path(f"/proc/{process.pid}/task").iterdir()}

        def probe() -> StackDump | None:
            dump = dump_in(process.pid, "threads")
            stuck = [frame_lines(stack, "stuck_here_threads") for stack in dump.threads]
            return dump if len(stuck) == 21 and all(stuck) else None

        dump = eventually(probe, "all threads wait")
        assert dump is not None
        assert {stack.thread for stack in dump.threads} == native_ids
        assert {stack.name for stack in dump.threads[1:]} == {f"waiter-{n}" for n in range(20)}
        waiter = dump.threads[7]
        assert dump.thread(waiter.thread) is waiter
        assert f"Thread {waiter.thread} ({waiter.name})" in dump.render()


def test_native_frames_come_before_the_python_call_they_block() -> None:
    with victim("stuck", "sleep") as process:
        dump = dump_in(process.pid, "sleep", native=True)
        main = dump.thread()
        assert main is not None
        assert ".so" in main.frames[0].file
        # It was paused for that, and goes on.
        eventually(lambda: set(thread_states(process.pid).values()) == {"S"}, "it sleeps again")


@pytest.mark.parametrize("mode", ["stopped", "uninterruptible"])
def test_native_is_not_tried_where_it_would_hang(mode: str) -> None:
    with victim("stuck", mode) as process:
        dump = dump_in(process.pid, mode, native=True)
        assert dump.method == "py-spy"
        assert dump.error is not None
        assert "cannot be paused" in dump.error
        assert dump.error.startswith("py-spy --native: ")


def test_a_dump_leaves_the_process_as_it_was() -> None:
    with victim("stuck", "stopped") as process:
        dump_in(process.pid, "stopped")
        found = stat(process.pid)
        assert found is not None
        assert found.state == "T"


@pytest.mark.skipif(
    stack_tools.find("pystack", "TIMERS_PYSTACK")[0] is None,
    reason="pystack is an optional fallback and not installed",
)
@pytest.mark.parametrize("mode", sorted(STATES))
def test_pystack_takes_over(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMERS_PY_SPY", "/nonexistent/py-spy")
    with victim("stuck", mode) as process:
        dump = dump_in(process.pid, mode)
        assert dump.method == "pystack"
        assert (dump.error or "").startswith("py-spy: TIMERS_PY_SPY=/nonexistent/py-spy is not")


@pytest.fixture
def no_pystack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMERS_PYSTACK", "/nonexistent/pystack")


@pytest.mark.usefixtures("no_pystack")
def test_facts_remain_without_any_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    with victim("stuck", "sleep") as process:
        good = dump_in(process.pid, "sleep")
        assert good.threads
        monkeypatch.setenv("TIMERS_PY_SPY", "/nonexistent/py-spy")
        dump = take(process.pid)
    assert (dump.method, dump.threads, dump.facts.state) == ("proc", (), "sleeping")
    assert [line.split(":")[0] for line in (dump.error or "").splitlines()] == [
        "py-spy",
        "pystack (optional)",
    ]
    assert dump.summary().startswith("no Python stack; sleeping")


@pytest.mark.usefixtures("no_pystack")
def test_a_process_that_is_not_python() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            eventually(lambda: Path(f"/proc/{process.pid}/exe").resolve().name != PYTHON)
            dump = take(process.pid)
        finally:
            process.kill()
    assert dump.method == "proc"
    assert dump.facts.threads == 1
    assert f"process {process.pid} is not a Python process" in (dump.error or "")


@pytest.fixture
def ended() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has exited and was not waited for: its pid cannot be given to another."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process


def test_a_zombie_is_told_from_a_gone_process(ended: subprocess.Popen[bytes]) -> None:
    zombie = take(ended.pid)
    assert zombie.facts.state == "zombie"
    assert "a zombie" in (zombie.error or "")
    ended.wait()
    gone = take(ended.pid)
    assert (gone.method, gone.facts.state) == ("proc", None)
    assert gone.error == f"process {ended.pid} is gone"


def test_logs_a_record_with_the_stack_of_each_worker(
    caplog: pytest.LogCaptureFixture, ended: subprocess.Popen[bytes]
) -> None:
    with victim("stuck", "sleep") as first, victim("stuck", "gil") as second:
        dump_in(first.pid, "sleep")
        dump_in(second.pid, "gil")
        timers = {
            first.pid: ['{"scope_id": "one"}'],
            second.pid: ['{"scope_id": "two"}', '{"scope_id": "three"}'],
            ended.pid: ['{"scope_id": "four"}'],
        }
        with caplog.at_level(logging.INFO, "timers.debug_info_logging"):
            dumps = log_debug_info_for_expired_timers("run-7", timers, timeout=60)
    assert list(dumps) == list(timers)
    assert dumps[first.pid].summary().startswith("stuck_here_sleep")
    assert dumps[second.pid].summary().startswith("stuck_here_gil")
    assert dumps[ended.pid].method == "proc"
    messages = {vars(record)["worker_pid"]: record.getMessage() for record in caplog.records}
    assert set(messages) == set(timers)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert {record.name for record in caplog.records} == {"timers.debug_info_logging"}
    for pid, scopes in timers.items():
        assert f"run:[run-7], worker {pid}: [{', '.join(scopes)}]" in messages[pid]
        assert dumps[pid].render() in messages[pid]
