"""Who is registered as a worker, and who is never signalled whatever a request says."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.children import (
    FORKS,
    OTHER_UID,
    adopting,
    alive,
    descriptors,
    dropped,
    family,
    no_descriptors,
    same_path,
    waiting,
)
from support.rig import Rig
from support.waiting import eventually
from timers import ReapPolicy
from timers.events import RequestRejected, TimerExpired, WorkerKilled
from timers.linux import procfs
from timers.server.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


def test_a_child_is_a_worker(workers: Workers) -> None:
    with waiting() as pid:
        worker = workers.register(pid)
        assert worker.refusal is None
        assert workers.by_pid.get(pid) is worker
        assert list(workers) == [worker]
        assert workers.watched == 1
        assert worker.info.pid == pid
        assert worker.info.start_time == worker.start_time == procfs.start_time(pid)
        before = descriptors()
        workers.forget(worker)
        workers.forget(worker)
        assert (workers.by_pid.get(pid), workers.watched) == (None, 0)
        assert descriptors() < before


def test_the_ranks_come_from_its_environment(workers: Workers) -> None:
    ranks = {"RANK": "3", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2"}
    for environment, expected in (
        (ranks, (3, 1, 2)),
        ({"RANK": "three", "LOCAL_RANK": "-1", "TORCHELASTIC_RESTART_COUNT": "²"}, (None,) * 3),
        (
            {"RANK": "9" * 5000, "LOCAL_RANK": "1" * 10, "TORCHELASTIC_RESTART_COUNT": "9" * 9},
            (None, None, 999_999_999),
        ),
    ):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, env=environment) as process:
            # exec(3) closes what Popen waits for a moment before the environment can be read.
            eventually(functools.partial(procfs.environment, process.pid))
            info = workers.register(process.pid).info
            assert (info.rank, info.local_rank, info.restart_count) == expected
            process.kill()


def test_a_process_that_has_ended_is_registered_without_one(workers: Workers) -> None:
    with waiting() as pid:
        dropped(pid)
        worker = workers.register(pid)
    assert (worker.process, worker.refusal, worker.start_time) == (None, None, None)
    assert workers.by_pid.get(pid) is worker
    workers.forget(worker)
    assert workers.watched == 0


def test_a_worker_that_cannot_be_looked_at_is_not_registered_and_costs_nothing(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting() as pid:
        before = descriptors()
        with monkeypatch.context() as patch:
            patch.setattr(procfs, "start_time", lambda _pid: None)
            with pytest.raises(PermissionError, match=f"/proc/{pid}/stat"):
                workers.register(pid)
            patch.undo()
            patch.setattr(procfs, "environment", lambda _pid: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                workers.register(pid)
        assert (list(workers), workers.watched) == ([], 0)
        assert descriptors() == before
        assert workers.register(pid).process is not None


def test_a_worker_is_looked_at_although_no_descriptor_is_left(workers: Workers) -> None:
    with waiting() as pid:
        expected = procfs.start_time(pid)
        with no_descriptors():
            worker = workers.register(pid)
            assert worker.process is not None
            assert worker.process.fileno() is None
            assert not worker.process.exited()
        assert (worker.refusal, worker.start_time) == (None, expected)


def test_all_that_is_held_is_given_back() -> None:
    before = descriptors()
    workers = Workers()
    with waiting() as pid:
        workers.register(pid)
        assert descriptors() > before
        workers.close()
        workers.close()
    assert descriptors() == before


@pytest.mark.parametrize("pid", [1, 0, -1, -(2**31), 2**31, 2**40, 10**30])
def test_what_cannot_be_a_worker_is_refused_and_occupies_nothing(
    workers: Workers, pid: int
) -> None:
    assert workers.register(pid).refusal == "protected_process"
    assert list(workers) == []
    assert workers.watched == 0


def test_the_server_and_its_ancestors_are_protected(workers: Workers) -> None:
    family = [os.getpid(), os.getppid(), *procfs.ancestors(os.getpid())]
    for pid in dict.fromkeys(family):
        assert workers.register(pid).refusal == "protected_process"
    assert workers.watched == 0


@root_only
def test_another_users_process_is_refused(workers: Workers) -> None:
    with waiting(uid=OTHER_UID) as pid:
        assert workers.register(pid).refusal == "other_user"
        assert workers.watched == 0


@pytest.fixture
def others_may_enter() -> Iterator[Path]:
    """A directory that a worker of another user can use, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o711)
        yield path


@root_only
def test_a_worker_that_becomes_roots_is_found_out(others_may_enter: Path) -> None:
    if os.statvfs(others_may_enter).f_flag & os.ST_NOSUID:
        pytest.skip(f"{others_may_enter} is mounted nosuid")
    sudo = others_may_enter / "sudo"
    shutil.copy("/usr/bin/env", sudo)
    sudo.chmod(0o4755)
    workers = Workers(users=frozenset({OTHER_UID}))
    with subprocess.Popen(
        ["sh", "-c", 'read x; exec "$0" cat', sudo],
        stdin=subprocess.PIPE,
        user=OTHER_UID,
        group=OTHER_UID,
        extra_groups=[],
    ) as process:
        worker = workers.register(process.pid)
        assert worker.refusal is None
        assert not workers.has_changed_user(worker)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        eventually(lambda: workers.has_changed_user(worker))
        process.kill()
        process.wait()
        assert not workers.has_changed_user(worker)
    workers.close()


@root_only
def test_a_worker_of_roots_that_gives_its_rights_up_stays_a_worker(workers: Workers) -> None:
    script = "import os, sys; sys.stdin.readline(); os.setuid(65534); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        worker = workers.register(process.pid)
        assert worker.owners == frozenset({0})
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        eventually(lambda: procfs.owners(process.pid) == frozenset({65534}))
        assert not workers.has_changed_user(worker)


@pytest.mark.parametrize("asked", ["owners", "ancestors"])
def test_a_worker_that_ends_while_it_is_looked_at_is_none_to_refuse(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = getattr(procfs, asked)

    def ask_too_late(pid: int) -> object:
        if pid == worker_pid:
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: not alive(pid), "its end")
            # As after its parent has waited for it.
            return None if asked == "owners" else []
        return ask(pid)

    with waiting() as worker_pid:
        monkeypatch.setattr(procfs, asked, ask_too_late)
        workers = Workers(descendants_of=os.getpid())
        worker = workers.register(worker_pid)
        assert worker.refusal is None
        workers.forget(worker)


def test_outside_the_job(workers: Workers) -> None:
    with waiting() as job, waiting() as other:
        only = Workers(descendants_of=job)
        assert only.register(job).refusal is None
        assert only.register(other).refusal == "outside_job"
        assert workers.register(other).refusal is None
        for worker in only:
            only.forget(worker)


@FORKS
def test_a_worker_whose_parent_exits_while_it_is_read_about_belongs_to_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with adopting(), family() as (middle, last):
        workers = Workers(descendants_of=os.getpid())
        read = procfs.stat

        def read_too_late(pid: int) -> procfs.Stat | None:
            if pid == middle:
                os.kill(middle, signal.SIGKILL)
                os.waitpid(middle, 0)
                monkeypatch.undo()
            return read(pid)

        monkeypatch.setattr(procfs, "stat", read_too_late)
        worker = workers.register(last)
        assert worker.refusal is None
        workers.forget(worker)


@pytest.mark.parametrize("hidden", ["owners", "stat"])
def test_a_refusal_for_what_could_not_be_read_is_not_for_ever(
    hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(policy=ReapPolicy(descendants_of=os.getpid()))
    read = getattr(procfs, hidden)
    with waiting() as pid:
        secret = {"owners": pid, "stat": os.getppid()}[hidden]
        if hidden == "stat":
            rig.watchdog.workers._descendants_of = -1  # nobody known
        with monkeypatch.context() as patch:
            patch.setattr(procfs, hidden, lambda who: None if who == secret else read(who))
            rig.acquire(pid, "x", after=1)
            assert rig.watchdog.known_workers() == []
            assert sum(rig.watchdog.statistics.rejected.values()) == 1
        rig.watchdog.workers._descendants_of = os.getpid()
        for _ in range(2):
            rig.acquire(pid, "x", after=1)
        assert [worker.pid for worker in rig.watchdog.known_workers()] == [pid]
        assert rig.watchdog.statistics.workers == 1
        assert sum(rig.watchdog.statistics.rejected.values()) == 1
        rig.pass_time(5)
        assert not alive(pid)
    rig.close()


def test_a_refusal_for_what_was_read_stays() -> None:
    with waiting() as job, waiting() as other:
        rig = Rig(policy=ReapPolicy(descendants_of=job))
        rig.acquire(other, "x", after=1)
        worker = rig.watchdog.workers.by_pid[other]
        assert (worker.refusal, worker.is_certain) == ("outside_job", True)
        rig.close()


def test_a_grandchild_belongs_to_the_job() -> None:
    with subprocess.Popen(
        ["sh", "-c", "sleep 1000 & echo $!; wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as job:
        assert job.stdout is not None
        grandchild = int(job.stdout.readline())
        workers = Workers(descendants_of=job.pid)
        assert workers.register(grandchild).refusal is None
        assert Workers(descendants_of=grandchild).register(job.pid).refusal == "outside_job"
        for worker in workers:
            assert worker.process is not None
            worker.process.send(9)
            workers.forget(worker)
        job.kill()


def test_the_count_survives_a_pid_that_is_registered_again(workers: Workers) -> None:
    with waiting() as pid:
        first = workers.register(pid)
        workers._unlist(first)
        assert workers.watched == 0
        second = workers.register(pid)
        assert workers.watched == 1
        workers.forget(first)  # its reap has ended: the other one stays
        assert (workers.by_pid.get(pid), workers.watched) == (second, 1)
        workers.forget(second)
        assert workers.watched == 0


def test_a_worker_of_a_server_without_descriptors_is_reaped(rig: Rig) -> None:
    with waiting() as pid:
        with no_descriptors():
            rig.acquire(pid, "x", after=1, start_time=procfs.start_time(pid))
            rig.pass_time(5)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert [event.outcome.value for event in rig.observer.of(WorkerKilled)] == ["killed"]


# -- and so nobody is signalled -------------------------------------------------------------------


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def overrun(rig: Rig, pid: int) -> None:
    """Ask, in every way there is, for a timer of ``pid``; and let each of them run out."""
    rig.acquire(pid, "x", after=1)
    rig.acquire_as_torch(pid, "y", after=1)
    rig.acquire(pid, "z", after=1, start_time=procfs.start_time(pid) if pid > 0 else 1)
    rig.release(pid, "x")
    rig.pass_time(5)
    rig.step()
    rig.settle()


def assert_a_worker_of_ones_own_is_reaped(rig: Rig) -> None:
    with waiting() as pid:
        rig.acquire(pid, "own", after=1)
        rig.pass_time(5)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert rig.reaped == [(pid, 9)]
    assert len(rig.observer.of(WorkerKilled)) == 1


def protected() -> dict[str, int]:
    return {
        "init": 1,
        "own group": 0,
        "everybody": -1,
        "a group": -os.getpgrp(),
        "the server": os.getpid(),
        "its parent": os.getppid(),
        "too big": 2**40,
    }


@pytest.mark.parametrize("who", protected())
def test_a_protected_process_is_never_signalled(rig: Rig, who: str) -> None:
    pid = protected()[who]
    overrun(rig, pid)
    assert rig.watchdog.statistics.rejected["protected_process"] == 4
    assert rig.watchdog.statistics.requests == 0
    assert len(rig.watchdog.state.table) == 0
    assert rig.reaped == []
    (rejection,) = rig.observer.of(RequestRejected)
    assert (rejection.reason, rejection.worker_pid) == ("protected_process", pid)
    assert str(pid) in rejection.detail
    assert rig.observer.of(TimerExpired) == []
    # Not even when somebody's own server asks for it by name.
    assert rig.watchdog.terminate(pid, 9) is False
    assert_a_worker_of_ones_own_is_reaped(rig)


@root_only
def test_another_users_process_is_never_signalled(rig: Rig) -> None:
    with waiting(uid=OTHER_UID) as pid:
        overrun(rig, pid)
        assert rig.watchdog.statistics.rejected["other_user"] == 4
        assert rig.reaped == []
        (rejection,) = rig.observer.of(RequestRejected)
        assert (rejection.reason, rejection.worker_pid) == ("other_user", pid)
        assert rig.watchdog.terminate(pid, 9) is False
        assert alive(pid)
    assert_a_worker_of_ones_own_is_reaped(rig)


def test_a_process_outside_the_job_is_never_signalled() -> None:
    with waiting() as job, waiting() as other:
        rig = Rig(policy=ReapPolicy(descendants_of=job))
        overrun(rig, other)
        assert rig.watchdog.statistics.rejected["outside_job"] == 4
        assert rig.watchdog.terminate(other, 9) is False
        assert alive(other)
        rig.acquire(job, "own", after=1)
        rig.pass_time(5)
        assert not alive(job)
        assert rig.reaped == [(job, 9)]
        rig.close()


def test_a_refused_process_that_ends_is_forgotten_without_a_word(rig: Rig) -> None:
    with waiting() as job, waiting() as other:
        rig = Rig(policy=ReapPolicy(descendants_of=job))
        rig.acquire(other, "x", after=1)
        assert [worker.pid for worker in rig.watchdog.workers] == [other]
        dropped(other)
        rig.step()
        assert list(rig.watchdog.workers) == []
        assert rig.observer.names == ["request rejected"]
        rig.close()


def test_the_interpreter_of_these_tests_is_not_a_worker_of_its_own_server() -> None:
    # The whole chain from here up, as a launcher that starts a server in its own process has it.
    script = (
        "import os, sys\n"
        "from support.rig import Rig\n"
        "rig = Rig()\n"
        "rig.acquire(os.getppid(), 'x', after=0)\n"
        "rig.acquire(os.getpid(), 'x', after=0)\n"
        "rig.pass_time(1)\n"
        "assert rig.watchdog.statistics.rejected['protected_process'] == 2\n"
        "assert rig.reaped == []\n"
        "rig.close()\n"
        "print('unharmed')\n"
    )
    shown = subprocess.check_output(
        [sys.executable, "-c", script],
        text=True,
        env=same_path(),
    )
    assert shown == "unharmed\n"
