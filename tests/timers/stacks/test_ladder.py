"""The ladder with tools that misbehave: stand-ins for py-spy and pystack, run for real.

Their target is the test's own process: what they print does not depend on it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from support.waiting import eventually
from timers import debug_info_logging
from timers.debug_info_logging import log_debug_info_for_expired_timers
from timers.linux import procfs
from timers.stacks import _ladder as stack_ladder
from timers.stacks.dump import Frame, StackDump
from timers.stacks.take import take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ME = os.getpid()
NOTHING = "/nonexistent/tool"
JSON = json.dumps(
    [
        {"os_thread_id": None, "frames": [{"name": "helper", "filename": "b.py", "line": 2}]},
        {"os_thread_id": ME, "frames": [{"name": "fit", "filename": "a.py", "line": 1}]},
    ]
)
PYSTACK = f"""\
Traceback for thread {ME} (python) [] (most recent call last):
    (Python) File "a.py", line 1, in fit"""
PERMISSION = "Permission Denied: Try running again with elevated permissions"
CHANGING = "Error: Failed to get stack traces"


class Install(Protocol):
    """Put a shell script in the place of a tool."""

    def __call__(self, script: str, tool: str = "PY_SPY") -> None: ...


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    before = set(procfs.children(ME))
    yield
    eventually(lambda: before.issuperset(procfs.children(ME)), "all children were waited for")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install stand-ins; in their script ``$0.NAME`` is a file of the test's own directory."""
    for tool in ("PY_SPY", "PYSTACK"):
        monkeypatch.setenv(f"TIMERS_{tool}", NOTHING)

    def install(script: str, tool: str = "PY_SPY") -> None:
        path = tmp_path / tool
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv(f"TIMERS_{tool}", str(path))

    return install


def printing(text: str) -> str:
    return f"cat <<'END'\n{text}\nEND"


def failing(text: str, code: int = 1) -> str:
    return f"echo '{text}' >&2; exit {code}"


def reason(dump: StackDump, tool: str = "py-spy") -> str:
    [line] = [line for line in (dump.error or "").splitlines() if line.startswith(f"{tool}: ")]
    return line.removeprefix(f"{tool}: ")


def test_the_first_rung(install: Install, tmp_path: Path) -> None:
    install(f'echo "$@" >> "$0.calls"; {printing(JSON)}')
    dump = take(ME)
    assert (dump.method, dump.error) == ("py-spy", None)
    assert dump.facts.state is not None
    assert [stack.thread for stack in dump.threads] == [ME, None]
    assert dump.threads[0].frames == (Frame("fit", "a.py", 1),)
    # Where Python has no name for a thread the kernel's is shown.
    assert dump.threads[0].name == procfs.thread_names(ME)[ME]
    calls = (tmp_path / "PY_SPY.calls").read_text()
    assert calls == f"dump --json --pid {ME} --nonblocking\n"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (printing("hello"), "printed something else than stacks: 'hello\\n'"),
        (printing("[]"), "found no Python frames"),
        ("exit 0", "printed something else than stacks: ''"),
        (failing(PERMISSION), "not permitted to read process PID: run the server as"),
        (failing("one\ntwo", 7), "failed with exit code 7: two"),
        (failing(CHANGING), f"failed with exit code 1: {CHANGING}"),
        ("kill -SEGV $$", "crashed by signal 11 and said nothing"),
        ("head -c 100000000 /dev/zero", "printed more than 4194304 bytes"),
        ("exec yes", "printed more than 4194304 bytes"),
        ("head -c 100000000 /dev/zero >&2; exit 3", "failed with exit code 3: "),
    ],
)
def test_each_failure_has_its_reason(install: Install, script: str, expected: str) -> None:
    install(script)
    dump = take(ME, timeout=60)
    assert reason(dump).startswith(expected.replace("PID", str(ME)))
    assert (dump.method, dump.threads) == ("proc", ())
    assert dump.facts.state is not None


def test_a_tool_that_cannot_be_started(install: Install, tmp_path: Path) -> None:
    install("")
    (tmp_path / "PY_SPY").write_bytes(b"\x7fELF no program")
    assert reason(take(ME)).startswith("could not be started: [Errno 8] Exec format error")


def test_a_tool_that_is_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TIMERS_PY_SPY", raising=False)
    monkeypatch.delenv("TIMERS_PYSTACK", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("timers.stacks.tools.sysconfig.get_path", lambda _: str(tmp_path))
    dump = take(ME)
    assert dump.method == "proc"
    assert "pip install py-spy" in reason(dump)
    assert "pip install pystack" in reason(dump, "pystack (optional)")


@pytest.mark.parametrize("place", ["interpreter", "scripts", "PATH"])
def test_where_tools_are_looked_for(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TIMERS_PY_SPY", raising=False)
    places = {name: tmp_path / name for name in ("interpreter", "scripts", "PATH")}
    for path in places.values():
        path.mkdir()
    tool = places[place] / "py-spy"
    tool.write_text(f"#!/bin/sh\nexec /bin/{printing(JSON)}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(places["PATH"]))
    monkeypatch.setattr(sys, "executable", str(places["interpreter"] / "python"))
    monkeypatch.setattr("timers.stacks.tools.sysconfig.get_path", lambda name: str(places[name]))
    assert take(ME).method == "py-spy"


# Tools that hang: with a child, deaf to SIGTERM, with its output closed or its child's open.
HANGING = {
    "sleeps": "exec sleep 1000",
    "ignores SIGTERM": "trap '' TERM; while :; do sleep 1000; done",
    "closed its output": "exec >&- 2>&-; sleep 1000",
    "prints slowly, for ever": "while :; do echo '['; sleep 0.1; done",
}


@pytest.mark.parametrize("script", HANGING.values(), ids=HANGING)
def test_a_tool_that_hangs_is_ended(install: Install, tmp_path: Path, script: str) -> None:
    install(f'echo $$ >> "$0.pids"; {script}')
    pids = tmp_path / "PY_SPY.pids"
    # On a busy machine it may be ended before it has said who it is: then it gets more time.
    for timeout in (0.5, 2, 8, 32):
        dump = take(ME, timeout=timeout)
        assert reason(dump).startswith("timed out after ")
        assert dump.facts.state is not None
        if pids.exists():
            break
    started = [int(pid) for pid in pids.read_text().split()]
    assert started
    eventually(lambda: not any(procfs.stat(pid) for pid in started), "the tool is gone")


def test_a_child_of_the_tool_that_keeps_its_output_open(install: Install, tmp_path: Path) -> None:
    install(f'sleep 1000 & echo $! > "$0.pid"; {printing(JSON)}')
    dump = take(ME, timeout=60)
    assert (dump.method, dump.error) == ("py-spy", None)
    child = int((tmp_path / "PY_SPY.pid").read_text())
    eventually(lambda: (found := procfs.stat(child)) is None or found.state == "Z", "it is ended")


def test_a_tool_that_cannot_be_killed(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    # In an uninterruptible wait a SIGKILL has no effect: here none is sent.
    spared: list[int] = []
    monkeypatch.setattr("timers.stacks.tools.os.killpg", lambda pid, _: spared.append(pid))
    install("exec sleep 1000")
    try:
        dump = take(ME, timeout=0.5)
        assert reason(dump).startswith("timed out after ")
        assert dump.facts.state is not None
        [pid] = spared
        assert procfs.stat(pid) is not None
    finally:
        monkeypatch.undo()
        for pid in spared:
            os.killpg(pid, signal.SIGKILL)
    # Its end is still waited for, in the background.
    eventually(lambda: procfs.stat(pid) is None, "it was reaped")


def test_a_process_that_changes_is_tried_again_and_then_paused(
    install: Install, tmp_path: Path
) -> None:
    install(
        f'echo "$@" >> "$0.calls"; case "$*" in *nonblocking*) {failing(CHANGING)};; esac\n'
        f"{printing(JSON)}"
    )
    dump = take(ME, timeout=60)
    assert (dump.method, dump.error) == ("py-spy", None)
    calls = (tmp_path / "PY_SPY.calls").read_text().splitlines()
    assert calls == [f"dump --json --pid {ME} --nonblocking"] * 3 + [f"dump --json --pid {ME}"]


def test_what_cannot_get_better_is_tried_once(install: Install, tmp_path: Path) -> None:
    install(f'echo >> "$0.calls"; {failing(PERMISSION)}')
    assert "ptrace_scope" in reason(take(ME, timeout=60))
    assert (tmp_path / "PY_SPY.calls").read_text() == "\n"


@pytest.mark.parametrize("state", ["D", "T", "t", "Z"])
def test_some_states_are_never_paused(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(procfs, "thread_states", lambda _: {ME: "S", ME + 1: state})
    install(f'echo "$@" >> "$0.calls"; {failing(CHANGING)}')
    dump = take(ME, timeout=60, native=True)
    assert "cannot be paused" in reason(dump, "py-spy --native")
    calls = (tmp_path / "PY_SPY.calls").read_text().splitlines()
    assert len(calls) == 6
    assert all("--nonblocking" in call for call in calls)


def test_without_native_where_native_fails(install: Install) -> None:
    install(f'case "$*" in *--native*) {failing("no symbols", 9)};; esac\n{printing(JSON)}')
    dump = take(ME, native=True)
    assert dump.method == "py-spy"
    assert dump.error == "py-spy --native: failed with exit code 9: no symbols"


def test_only_native_has_nothing_else(install: Install) -> None:
    install(f'case "$*" in *--native*) {failing("no symbols", 9)};; esac\n{printing(JSON)}')
    dump = take(ME, only_native=True)
    assert dump.threads == ()
    assert dump.error == "py-spy --native: failed with exit code 9: no symbols"


@pytest.mark.slow
def test_only_native_has_most_of_the_time(install: Install) -> None:
    install(f"sleep 1; {printing(JSON)}")  # torch's symbols take that long to read
    assert take(ME, timeout=3, native=True).error is not None  # a third of the time was too short
    assert take(ME, timeout=3, only_native=True).error is None


def test_native_has_no_nonblocking(install: Install, tmp_path: Path) -> None:
    install(f'echo "$@" >> "$0.calls"; {printing(JSON)}')
    assert take(ME, native=True).error is None
    assert (tmp_path / "PY_SPY.calls").read_text() == f"dump --json --pid {ME} --native\n"


def test_the_second_rung_after_a_tool_that_hangs(install: Install, tmp_path: Path) -> None:
    install("exec sleep 1000")
    install(f'echo "$@" >> "$0.calls"; {printing(PYSTACK)}', "PYSTACK")
    # With too little time for the second on a busy machine, there is more of it next time.
    for timeout in (1, 4, 16, 60):
        dump = take(ME, timeout=timeout)
        if dump.method == "pystack":
            break
    assert dump.threads[0].frames == (Frame("fit", "a.py", 1),)
    assert dump.error == f"py-spy: {reason(dump)}"
    assert reason(dump).startswith("timed out after ")
    assert f"remote --no-block {ME}" in (tmp_path / "PYSTACK.calls").read_text().splitlines()


def test_both_rungs_fail(install: Install) -> None:
    install(failing(PERMISSION))
    install(failing("Could not determine python version from /bin/x", 1), "PYSTACK")
    dump = take(ME, timeout=60)
    assert dump.method == "proc"
    assert "CAP_SYS_PTRACE" in reason(dump)
    assert "is not a Python process" in reason(dump, "pystack")


def test_in_a_server_that_ignores_its_children(install: Install) -> None:
    # Then the kernel reaps them, and nobody learns how they ended.
    install(printing(JSON))
    script = (
        "import os, signal, sys, timers.stacks.take;"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        "sys.stdout.write(timers.stacks.take.take(os.getpid(), timeout=60).method)"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    ran = subprocess.run(command, check=True, capture_output=True)
    assert (ran.stdout, ran.stderr) == (b"py-spy", b"")


def test_a_process_replaced_during_the_dump_has_no_stack(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = iter([1, 2])
    monkeypatch.setattr(procfs, "start_time", lambda _: next(starts))
    install(printing(JSON))
    dump = take(ME)
    assert (dump.method, dump.threads) == ("proc", ())
    assert dump.error == f"process {ME} ended while its stack was taken"


def refuse(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("kill", [os.kill, refuse], ids=["ours", "of another user"])
def test_a_hidden_process_is_tried(
    install: Install, monkeypatch: pytest.MonkeyPatch, kill: Callable[..., None]
) -> None:
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(procfs, "facts", lambda _: procfs.ProcessFacts())
    monkeypatch.setattr(procfs, "start_time", lambda _: None)
    install(printing(JSON))
    assert take(ME).method == "py-spy"


@pytest.mark.parametrize("pid", [0, -1, -(2**31)])
def test_what_is_no_process_id(install: Install, tmp_path: Path, pid: int) -> None:
    install('echo >> "$0.calls"')
    dump = take(pid)
    assert dump == StackDump(
        pid=pid, method="proc", seconds=dump.seconds, error=f"{pid} is not the id of a process"
    )
    assert not (tmp_path / "PY_SPY.calls").exists()


def test_a_process_id_beyond_the_kernels() -> None:
    assert take(2**80).error == f"process {2**80} is gone"


@pytest.mark.parametrize("timeout", [0.0, -1.0, math.nan])
def test_no_time_at_all(install: Install, timeout: float) -> None:
    install("exec sleep 1000")
    dump = take(ME, timeout=timeout)
    assert (dump.method, dump.threads) == ("proc", ())
    assert dump.error


def test_an_endless_timeout(install: Install) -> None:
    install(printing(JSON))
    assert take(ME, timeout=math.inf).method == "py-spy"


@pytest.fixture
def hanging_kernel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Reading /proc blocks until the test ends."""
    release = threading.Event()
    monkeypatch.setattr(procfs, "facts", lambda _: release.wait() and procfs.ProcessFacts())
    before = set(threading.enumerate())
    yield
    release.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()


@pytest.mark.usefixtures("hanging_kernel")
def test_reading_proc_blocks() -> None:
    dump = take(ME, timeout=0.2)
    assert (dump.method, dump.error) == ("proc", "gave up: not done within 0.2 s")


def test_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch, install: Install) -> None:
    install(printing(JSON))
    assert take(ME).error is None

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert take(ME).error == "no thread to take the stack with: can't start new thread"
    dumps = log_debug_info_for_expired_timers("run", {ME: []}, timeout=0.2)
    assert dumps[ME].error == "not done within 0.2 s"


def test_an_unexpected_error_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LookupError("odd")

    monkeypatch.setattr(stack_ladder, "find", fail)
    dump = take(ME)
    assert dump.error == "unexpected LookupError: odd"
    assert dump.facts.state is not None


def test_a_worker_does_not_load_the_ladder() -> None:
    script = (
        "import sys, timers.debug_info_logging as it;"
        "sys.stdout.write(repr([name for name in sys.modules if 'ladder' in name]));"
        "it.take(-1);"
        "sys.stdout.write(repr([name for name in sys.modules if 'ladder' in name]))"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE)
    assert output.stdout == b"[]['timers.stacks._ladder']"


# log_debug_info_for_expired_timers


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[logging.LogRecord]:
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", seen.append)
    monkeypatch.setattr(debug_info_logging.logger, "handlers", [handler])
    return seen


def test_nothing_expired_is_not_logged(records: list[logging.LogRecord], install: Install) -> None:
    install(printing(JSON))
    assert log_debug_info_for_expired_timers("run", {ME: ["{}"]})[ME].threads
    assert len(records) == 1
    assert log_debug_info_for_expired_timers("run", {}) == {}
    assert len(records) == 1


def test_bad_entries_cost_only_themselves(
    records: list[logging.LogRecord], install: Install
) -> None:
    install(printing(JSON))
    timers: dict[Any, Any] = {"x": ["{}"], None: 3, True: [], -1: [], 1.5: [], ME: [b"\xff", None]}
    dumps = log_debug_info_for_expired_timers("run", timers)
    assert list(dumps) == [ME]
    assert dumps[ME].method == "py-spy"
    workers = [vars(record)["worker_pid"] for record in records]
    assert sorted(map(repr, workers)) == sorted(map(repr, timers))
    [message] = [record.getMessage() for record in records if vars(record)["worker_pid"] == ME]
    assert r"[b'\xff', None]" in message


@pytest.mark.parametrize("timers", [None, 3, "text", [1, 2]])
def test_what_is_no_dictionary(records: list[logging.LogRecord], timers: Any) -> None:
    assert log_debug_info_for_expired_timers("run", timers) == {}
    assert len(records) == 1


def test_all_hanging_together_keep_the_bound(
    records: list[logging.LogRecord], install: Install, many: Callable[[int], list[int]]
) -> None:
    install("exec sleep 1000")
    pids = many(20)
    dumps = log_debug_info_for_expired_timers("run", {pid: ["{}"] for pid in pids}, timeout=1)
    assert list(dumps) == pids
    assert all(dump.method == "proc" and dump.error for dump in dumps.values())
    eventually(lambda: len(records) == 20, "each was logged")


@pytest.fixture
def many() -> Any:
    """Start a number of processes that wait; end them with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(number: int) -> list[int]:
        started.extend(subprocess.Popen(["sleep", "1000"]) for _ in range(number))
        return [process.pid for process in started]

    yield start
    for process in started:
        process.kill()
        process.wait()


class Handler(logging.Handler):
    """Does what a test wants in place of logging."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self.action = action
        self.called = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        del record
        self.called.set()
        self.action()


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], Handler]:
    def attach(handler: Handler) -> Handler:
        monkeypatch.setattr(debug_info_logging.logger, "handlers", [handler])
        monkeypatch.setattr(debug_info_logging.logger, "propagate", False)
        return handler

    return attach


def test_a_handler_that_raises(attach: Callable[[Handler], Handler], install: Install) -> None:
    install(printing(JSON))

    def fail() -> None:
        raise OSError("disk full")

    handler = attach(Handler(fail))
    assert log_debug_info_for_expired_timers("run", {ME: ["{}"]})[ME].method == "py-spy"
    assert handler.called.is_set()


def test_a_handler_that_blocks(attach: Callable[[Handler], Handler], install: Install) -> None:
    install(printing(JSON))
    release = threading.Event()
    before = set(threading.enumerate())
    handler = attach(Handler(release.wait))
    try:
        for timeout in (0.5, 2, 8, 32):
            dumps = log_debug_info_for_expired_timers("run", {ME: []}, timeout=timeout)
            if dumps[ME].threads:
                break
        assert dumps[ME].method == "py-spy"
        eventually(handler.called.is_set)
    finally:
        release.set()
        for thread in set(threading.enumerate()) - before:
            thread.join()
