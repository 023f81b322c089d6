"""Facts about other processes, from real ones and from what the kernel may write."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from support.children import FORKS, adopting, descriptors, family, in_child, no_descriptors
from support.waiting import eventually
from timers.linux import descriptors as descriptors_module
from timers.linux import procfs
from timers.linux.descriptors import Reserve
from timers.living import Living

if TYPE_CHECKING:
    from collections.abc import Iterator

PR_SET_NAME = 15


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits until its standard input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        env={**os.environ, "RANK": "3", "ODD": "a=b"},
    ) as process:
        try:
            eventually(lambda: "RANK" in procfs.environment(process.pid), "it is started")
            yield process
        finally:
            process.kill()


@pytest.fixture
def no_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none but what the test makes."""
    monkeypatch.setattr(descriptors_module, "_reserves", Living())


@pytest.fixture
def gone(child: subprocess.Popen[bytes]) -> int:
    """The pid of a process that was there a moment ago."""
    assert procfs.stat(child.pid) is not None
    child.kill()
    child.wait()
    return child.pid


def test_stat_of_this_process() -> None:
    found = procfs.stat(os.getpid())
    assert found is not None
    assert found.state == "R"
    assert found.parent == os.getppid()
    assert found.start_time == procfs.start_time(os.getpid())
    assert found.cpu_seconds > 0
    assert found.resident_bytes > 2**20
    assert found.threads >= 1


def test_a_name_with_parentheses_and_spaces_is_no_trouble() -> None:
    # A thread names itself so that this process keeps its own name.
    seen: dict[int, str] = {}

    def work() -> None:
        name = b"a) R (1 \xff\n"
        assert ctypes.CDLL(None).prctl(PR_SET_NAME, ctypes.c_char_p(name)) == 0
        tid = threading.get_native_id()
        seen[tid] = procfs.thread_names(os.getpid())[tid]
        states[tid] = procfs.thread_states(os.getpid())[tid]
        found = procfs.stat(tid)  # threads have a directory of their own, unlisted
        assert found is not None
        parents.append(found.parent)

    states: dict[int, str] = {}
    parents: list[int] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert list(seen.values()) == ["a) R (1 \ufffd"]
    assert list(states.values()) == ["R"]
    assert parents == [os.getppid()]


def test_family(child: subprocess.Popen[bytes]) -> None:
    assert child.pid in procfs.children(os.getpid())
    assert child.pid in procfs._children_by_scan(os.getpid())
    assert procfs.ancestors(child.pid)[:2] == [os.getpid(), os.getppid()]
    assert 0 not in procfs.ancestors(child.pid)


@FORKS
def test_a_parent_that_exits_while_its_line_is_read_costs_no_ancestor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with adopting(), family() as (middle, last):
        assert procfs.ancestors(last)[:2] == [middle, os.getpid()]
        read = procfs.stat

        def read_too_late(pid: int) -> procfs.Stat | None:
            if pid == middle:  # between the two reads of /proc
                os.kill(middle, signal.SIGKILL)
                os.waitpid(middle, 0)
                monkeypatch.undo()
            return read(pid)

        monkeypatch.setattr(procfs, "stat", read_too_late)
        assert procfs.ancestors(last)[:2] == [os.getpid(), os.getppid()]


def test_environment_and_owner(child: subprocess.Popen[bytes]) -> None:
    environment = procfs.environment(child.pid)
    assert (environment["RANK"], environment["ODD"]) == ("3", "a=b")
    assert procfs.owners(child.pid) == frozenset({os.geteuid()})


def test_which_program_is_a_python(child: subprocess.Popen[bytes]) -> None:
    assert procfs.is_python(child.pid)
    with subprocess.Popen(["/bin/sleep", "1000"]) as other:
        try:
            eventually(lambda: procfs.command(other.pid)[:1] == ["/bin/sleep"], "it is started")
            assert not procfs.is_python(other.pid)
        finally:
            other.kill()


def test_facts(child: subprocess.Popen[bytes]) -> None:
    facts = eventually(
        lambda: found if (found := procfs.facts(child.pid)).state == "sleeping" else None
    )
    assert facts is not None
    assert facts.threads == 1
    assert facts.open_files is not None
    assert facts.open_files >= 3
    assert facts.resident_bytes is not None
    assert facts.resident_bytes > 2**20
    assert facts.cpu_seconds is not None
    assert facts.system_call is not None


def test_a_process_that_is_gone_is_unknown(gone: int) -> None:
    assert not procfs.is_python(gone)
    assert procfs.stat(gone) is None
    assert procfs.start_time(gone) is None
    assert procfs.owners(gone) is None
    assert procfs.ancestors(gone) == []
    assert procfs.children(gone) == []
    assert procfs.environment(gone) == {}
    assert procfs.thread_names(gone) == {}
    assert procfs.thread_states(gone) == {}
    assert procfs.facts(gone) == procfs.ProcessFacts()


def test_a_zombie_is_told(child: subprocess.Popen[bytes]) -> None:
    assert procfs.facts(child.pid).state != "zombie"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    facts = procfs.facts(child.pid)
    assert (facts.state, facts.wait_channel, facts.open_files) == ("zombie", None, None)


def test_start_time_tells_two_processes_apart(child: subprocess.Popen[bytes]) -> None:
    mine, its = procfs.start_time(os.getpid()), procfs.start_time(child.pid)
    assert mine is not None
    assert its is not None
    assert mine <= its
    assert its == procfs.start_time(child.pid)


def test_an_endless_file_is_not_read_to_its_end(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = procfs.environment(child.pid)
    monkeypatch.setattr(procfs, "_MOST_BYTES", 3)
    (name,) = procfs.environment(child.pid)
    assert next(iter(whole)).startswith(name)
    assert 0 < len(name) <= 3


@pytest.mark.usefixtures("no_reserve")
def test_a_reserve_lends_a_descriptor_when_there_is_none() -> None:
    with no_descriptors():
        assert procfs.stat(os.getpid()) is None
    reserve = Reserve()
    with no_descriptors():
        for _ in range(3):
            assert procfs.stat(os.getpid()) is not None
            assert os.getpid() in procfs.thread_states(os.getpid())
        assert procfs.stat(2**22 + 1) is None
    reserve.close()
    with no_descriptors():
        assert procfs.stat(os.getpid()) is None


@pytest.mark.usefixtures("no_reserve")
def test_a_reserve_that_was_lost_to_another_thread_is_had_again() -> None:
    reserve = Reserve()
    with no_descriptors():
        with reserve.lent():
            quicker = os.open("/dev/null", os.O_RDONLY)
        assert procfs.stat(os.getpid()) is None
        os.close(quicker)
        assert procfs.stat(os.getpid()) is not None
        assert procfs.stat(os.getpid()) is not None
    reserve.close()


@FORKS
def test_a_reserve_is_not_inherited() -> None:
    before = len(descriptors())
    reserve = Reserve()
    assert len(descriptors()) == before + 1
    assert in_child(lambda: len(descriptors()) == before)
    reserve.close()
    reserve.close()
    assert len(descriptors()) == before


def test_bytes_that_a_process_reads_are_counted() -> None:
    before = procfs.io_bytes(os.getpid())
    assert before is not None
    with open("/dev/zero", "rb", buffering=0) as file:
        file.read(100_000)
    after = procfs.io_bytes(os.getpid())
    assert after is not None
    assert after >= before + 100_000
    assert procfs.io_bytes(2**22 + 1) is None
