"""One process and no other: real ones, that end, are recycled, or cannot be held by a pidfd."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import threading

import pytest

from support.children import alive, descriptors, dropped, in_pid_namespace, waiting
from timers.errors import TimerError, UnsupportedPlatformError
from timers.linux import procfs
from timers.linux.process import Process, require_linux

NO_PIDFD = [errno.EMFILE, errno.ENFILE, errno.EPERM, errno.ENOSYS]


def refuse_pidfds(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def pidfd_open(pid: int, flags: int = 0) -> int:
        raise OSError(number, os.strerror(number), pid, None, flags)

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)


def test_a_process_that_lives_and_ends() -> None:
    with waiting() as pid:
        process = Process(pid)
        assert (process.pid, process.start_time) == (pid, procfs.start_time(pid))
        assert not process.exited()
        assert not process.replaced()
        process.send(signal.SIGTERM)
        assert process.exited(30)
        assert not process.replaced()
        process.close()


def test_a_process_that_has_been_waited_for() -> None:
    with waiting() as pid:
        process = Process(pid)
        assert dropped(pid) == -signal.SIGKILL
        assert process.exited()
        with pytest.raises(ProcessLookupError):
            process.send(signal.SIGKILL)
        process.close()


def test_its_descriptor_says_when_it_ends() -> None:
    with waiting() as pid:
        process = Process(pid)
        descriptor = process.fileno()
        assert descriptor is not None
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(0) == []
        os.kill(pid, signal.SIGKILL)
        assert poll.poll(30_000) == [(descriptor, select.POLLIN)]
        process.close()
        assert process.fileno() is None


def test_a_descriptor_is_given_back_once() -> None:
    with waiting() as pid:
        before = descriptors()
        process = Process(pid)
        assert descriptors() != before
        process.close()
        process.close()
        assert descriptors() == before


def test_it_is_not_inherited_by_programs_that_are_started() -> None:
    process = Process(os.getpid())
    assert any("pidfd" in entry for entry in descriptors())
    script = "ls -l /proc/self/fd"
    shown = subprocess.check_output(["sh", "-c", script], close_fds=False, text=True)
    assert " 0 -> " in shown
    assert "pidfd" not in shown
    process.close()


@pytest.mark.parametrize("pid", [0, -1, -(2**31), 2**22 + 1, 2**31 - 1])
def test_what_is_no_process(pid: int) -> None:
    with pytest.raises(ProcessLookupError, match=str(pid)):
        Process(pid)


def test_a_process_that_has_ended() -> None:
    with waiting() as pid:
        Process(pid).close()
        dropped(pid)
        with pytest.raises(ProcessLookupError):
            Process(pid)


def test_a_zombie_has_ended() -> None:
    with waiting() as pid:
        Process(pid).close()
        before = descriptors()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError, match="has ended"):
            Process(pid)
        assert descriptors() == before


def test_a_thread_is_no_process() -> None:
    seen: list[int] = []
    failures: list[type[BaseException]] = []

    def work() -> None:
        seen.append(threading.get_native_id())
        try:
            Process(seen[0])
        except ProcessLookupError as error:
            failures.append(type(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0] != os.getpid()
    assert failures == [ProcessLookupError]


@pytest.mark.parametrize("number", NO_PIDFD, ids=errno.errorcode.get)
def test_without_a_pidfd_the_start_time_identifies_it(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_pidfds(monkeypatch, number)
    with waiting() as pid:
        process = Process(pid)
        assert process.fileno() is None
        assert process.start_time == procfs.start_time(pid)
        assert not process.exited()
        assert not process.exited(0.03)
        process.send(signal.SIGKILL)
        assert process.exited(30)
        with pytest.raises(ProcessLookupError):
            process.send(signal.SIGKILL)
        dropped(pid)
        assert process.exited()
        with pytest.raises(ProcessLookupError):
            Process(pid)
        process.close()


def test_the_last_descriptors_are_not_for_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    with waiting() as pid:
        before = descriptors()
        with monkeypatch.context() as patch:
            patch.setattr("timers.linux.process.is_reserved", lambda _descriptor: True)
            process = Process(pid)
        assert process.fileno() is None
        assert descriptors() == before
        assert process.start_time == procfs.start_time(pid)
        process.send(signal.SIGKILL)
        assert process.exited(30)
        process.close()


def test_without_a_pidfd_another_start_time_is_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_pidfds(monkeypatch, errno.EMFILE)
    with waiting() as pid:
        process = Process(pid)
        assert process.start_time is not None
        process.start_time -= 1  # as if the one that was meant had begun before
        assert process.exited()
        assert process.replaced()
        with pytest.raises(ProcessLookupError):
            process.send(signal.SIGKILL)
        assert alive(pid)


@pytest.mark.parametrize("scenario", ["process", "process-without-pidfd"])
def test_a_recycled_pid_is_another_process(scenario: str) -> None:
    in_pid_namespace("recycled", scenario)


def test_only_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    require_linux("it")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedPlatformError, match=r"it needs Linux 5\.3.*darwin") as raised:
        require_linux("it")
    assert isinstance(raised.value, TimerError)
    assert raised.value.errno == errno.ENOSYS


@pytest.mark.parametrize("seen", ["1", None], ids=["of others", "not at all"])
def test_a_proc_that_does_not_know_us_will_not_do(
    monkeypatch: pytest.MonkeyPatch, seen: str | None
) -> None:
    require_linux("it")

    def readlink(path: str) -> str:
        if seen is None:
            raise FileNotFoundError(path)
        return seen

    monkeypatch.setattr(os, "readlink", readlink)
    with pytest.raises(UnsupportedPlatformError, match="it needs /proc"):
        require_linux("it")


def test_a_python_without_pidfds_will_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    require_linux("it")
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(UnsupportedPlatformError):
        require_linux("it")


def test_a_process_that_cannot_be_identified_is_neither_gone_nor_signalled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_pidfds(monkeypatch, errno.EMFILE)
    with waiting() as pid:
        process = Process(pid)
        with monkeypatch.context() as patch:
            patch.setattr(procfs, "_contents", _no_descriptor)
            assert not process.exited(0.05)
            with pytest.raises(PermissionError, match=f"/proc/{pid}/stat"):
                process.send(signal.SIGKILL)
            with pytest.raises(PermissionError, match=f"process {pid} is there"):
                Process(pid)
        assert alive(pid)
        process.send(signal.SIGKILL)
        dropped(pid)
        assert process.exited()


def _no_descriptor(path: str) -> bytes:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
