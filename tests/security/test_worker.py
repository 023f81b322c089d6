"""A worker that is hostile or broken: what it can do to the server and to other workers."""

from __future__ import annotations

import array
import contextlib
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

import timers
from support.children import FORKS, OTHER_UID, descriptors, dropped, waiting
from support.processes import victim
from support.real_time import require_real_time
from support.rig import Rig
from support.servers import SocketPair
from support.waiting import eventually
from timers import LocalTimerServer, ReapPolicy
from timers.events import Outcome, TimerExpired, WorkerKilled
from timers.transport.socket_path import connect
from timers.transport.wire import Decoder, Message
from victims.attacker import become, request

if TYPE_CHECKING:
    from pathlib import Path

    from support.recording import Recorder
    from support.servers import FilePair

pytestmark = FORKS

NO_KILL_BY_ITSELF = [
    pytest.param(signal.SIGSTOP, id="STOP"),
    pytest.param(signal.SIGCONT, id="CONT"),
    pytest.param(signal.SIGCHLD, id="CHLD"),
    pytest.param(signal.SIGWINCH, id="WINCH"),
]


@pytest.mark.parametrize("number", NO_KILL_BY_ITSELF)
def test_a_worker_that_asks_for_a_harmless_signal_is_killed_all_the_same(
    sockets: SocketPair, recorder: Recorder, number: int
) -> None:
    sockets.server(observer=recorder, policy=ReapPolicy(grace=0.2))
    worker = sockets.worker(number)
    worker.tell("stuck", "odd", 0.2)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert (killed.signal, killed.outcome) == (number, Outcome.ESCALATED)
    assert worker.gone()


@pytest.mark.parametrize("number", [32, 33, 64])
def test_a_worker_may_ask_for_any_signal_that_there_is(
    sockets: SocketPair, recorder: Recorder, number: int
) -> None:
    sockets.server(observer=recorder)
    worker = sockets.worker(number)
    worker.tell("stuck", "odd", 0.2)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert not killed.outcome.failed
    assert worker.gone()


def test_a_worker_can_choose_not_to_be_killed(
    either: FilePair | SocketPair, recorder: Recorder
) -> None:
    server = either.server(observer=recorder)
    worker = either.worker(0)
    worker.tell("stuck", "observed", 0.1)
    eventually(lambda: server.statistics.scope("observed").expirations == 1)
    other = either.worker()
    other.tell("stuck", "hang", 0.1)
    recorder.wait(WorkerKilled, other.pid)
    assert worker.alive


# -- what it costs the server --------------------------------------------------------------------


def test_a_hostile_environment_costs_the_server_nothing(
    files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    environment = {**os.environ, "RANK": "9" * 5000, "LOCAL_RANK": "-1", "RESTART_COUNT": "\udcff"}
    pipe = os.open(files.path, os.O_WRONLY)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, env=environment) as worker:
        os.write(pipe, request(worker.pid, "first", seconds=3600))
        eventually(lambda: _seen(server) == 1)
        before = descriptors()
        for number in range(100):
            os.write(pipe, request(worker.pid, f"scope {number}", seconds=3600))
        eventually(lambda: _seen(server) == 101)
        assert descriptors() == before
        assert server.statistics.requests == 101
        [known] = server.known_workers()
        assert (known.pid, known.rank, known.local_rank) == (worker.pid, None, None)
    os.close(pipe)


def _seen(server: Any) -> int:
    return int(server.statistics.requests + sum(server.statistics.rejected.values()))


def test_an_endless_environment_is_not_read_to_its_end(sockets: SocketPair) -> None:
    server = sockets.server_process()
    size = 1 << 30
    with victim("attacker", "endless", str(sockets.path), str(size)):
        eventually(lambda: server.do("requests") == 1)
        assert _peak_bytes(server.pid) < size // 2


def _peak_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        [line] = [line for line in file if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def test_one_worker_cannot_take_all_connections(sockets: SocketPair) -> None:
    server = sockets.server_process()
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (200, hard))
    with victim("attacker", "connections", str(sockets.path), "300"):
        worker = sockets.worker()
        worker.tell("stuck", "hang", 0.1)
        assert worker.gone(30)
        assert server.do("rejected")["too_many"] > 200


def test_one_worker_has_a_bound_on_its_timers(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder, policy=ReapPolicy(max_timers=100))
    pipe = os.open(files.path, os.O_WRONLY)
    try:
        with waiting() as greedy, waiting() as other:
            for number in range(150):
                os.write(pipe, request(greedy, f"scope {number}", seconds=3600))
            eventually(lambda: server.statistics.rejected["too_many"] == 50)
            assert len(server.running_timers()) == 100
            # Those that there are can be restarted and released, and another worker has its own.
            os.write(pipe, request(greedy, "scope 0", seconds=7200))
            os.write(pipe, request(greedy, "scope 1", seconds=-time.time() - 1))
            os.write(pipe, request(greedy, "scope 100", seconds=3600))
            os.write(pipe, request(other, "scope 0", seconds=3600))
            eventually(lambda: other in [each.worker.pid for each in server.running_timers()])
            assert server.statistics.rejected["too_many"] == 50
            assert len(server.running_timers()) == 101
    finally:
        os.close(pipe)


def test_one_worker_has_a_bound_on_its_nested_blocks(
    either: FilePair | SocketPair, recorder: Recorder
) -> None:
    server = either.server(observer=recorder, policy=ReapPolicy(max_timers=100))
    worker = either.worker()
    worker.do("nest", "x", 1000)
    eventually(lambda: server.statistics.requests == 1000)
    if isinstance(either, SocketPair):  # on its board, of which they have one slot
        assert len(server.running_timers()) == 1
    else:
        assert server.statistics.rejected["too_many"] == 899
        assert server._watchdog.workers.by_pid[worker.pid].outers == 100
    worker.tell("stuck", "hang", 0.2)
    assert recorder.wait(WorkerKilled, worker.pid).timer.scope_id == "hang"


def test_descriptors_that_a_worker_sends_along_are_not_kept(
    sockets: SocketPair, recorder: Recorder
) -> None:
    server = sockets.server(observer=recorder)
    with connect(str(sockets.path)) as connection, open(os.devnull, "rb") as null:
        connection.setblocking(True)
        connection.send(request(os.getpid(), "x"))
        eventually(lambda: _seen(server) == 1)
        before = descriptors()
        for _ in range(200):
            connection.sendmsg(
                [request(os.getpid(), "x")],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()]))],
            )
        eventually(lambda: _seen(server) == 401)
        assert server.statistics.rejected["unexpected_descriptor"] == 200
        assert descriptors() == before


def test_a_flood_of_one_worker_delays_no_deadline_of_another(
    either: FilePair | SocketPair, recorder: Recorder
) -> None:
    server = either.server(observer=recorder)
    kind = "socket" if either.prefix else "pipe"
    with victim("attacker", "flood", str(either.path), kind) as attacker:
        worker = either.worker()
        eventually(lambda: server.statistics.requests > 10_000)
        worker.tell("stuck", "hang", 0.3)
        killed = recorder.wait(WorkerKilled, worker.pid)
        counted = server.statistics.requests
        eventually(lambda: server.statistics.requests > counted, "the flood goes on")
        assert attacker.poll() is None
    assert killed.outcome is Outcome.KILLED


def test_a_flood_of_one_worker_takes_no_core_from_others_in_real_time(
    either: FilePair | SocketPair,
) -> None:
    require_real_time()
    server = either.server()
    thread = next(each for each in threading.enumerate() if each.name == type(server).__name__)
    assert thread.native_id is not None

    def policy() -> int:
        return os.sched_getscheduler(thread.native_id or 0) & ~os.SCHED_RESET_ON_FORK

    eventually(lambda: policy() == os.SCHED_RR, "the server is scheduled in real time")
    kind = "socket" if either.prefix else "pipe"
    with victim("attacker", "flood", str(either.path), kind):
        eventually(lambda: policy() == os.SCHED_OTHER, "no longer, for what it costs", 60.0)


def test_a_packet_that_is_too_large_costs_that_packet(
    sockets: SocketPair, recorder: Recorder
) -> None:
    server = sockets.server(observer=recorder)
    with connect(str(sockets.path)) as connection:
        connection.setblocking(True)
        connection.send(request(os.getpid(), "x" * 100_000))
        eventually(lambda: server.statistics.rejected["too_long"] == 1)
        connection.send(request(os.getpid(), "x"))
        eventually(lambda: server.statistics.rejected["protected_process"] == 1)


def test_what_a_decoder_remembers_of_a_worker_is_bounded() -> None:
    decoder = Decoder()
    lines = [
        request(2, f"{number} {'x' * 3800}", seconds=seconds, deadline_ns=1)
        for number in range(2000)
        for seconds in (60.0, -time.time() - 1)
    ]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for line in lines:
            messages, _ = decoder.feed(line)
            assert len(messages) == 1
        del messages
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4 << 20


# -- what it can make others believe -------------------------------------------------------------


def test_a_worker_can_count_what_never_was_in_any_scope() -> None:
    rig = Rig()
    with waiting() as worker:
        rig.watchdog.apply([Message(worker, "of others", -1, 0, missed=(1000, 1000))])
        found = rig.watchdog.statistics.scopes["of others"]
        assert (found.acquires, found.releases, found.active) == (1000, 1000, 0)
    rig.close()


def test_a_worker_can_push_later_scopes_into_other() -> None:
    rig = Rig()
    with waiting() as hostile, waiting() as other:
        for number in range(1000):
            rig.acquire(hostile, f"made up {number}", after=3600)
        rig.acquire(other, "all_reduce", after=3600)
        statistics = rig.watchdog.statistics
        assert len(statistics.scopes) == 201
        assert "all_reduce" not in statistics.scopes
        assert statistics.scopes["other"].acquires == 801
    rig.close()


def test_a_worker_can_fill_the_log_with_its_own_expiries(
    files: FilePair, recorder: Recorder
) -> None:
    files.server(observer=recorder)
    pipe = os.open(files.path, os.O_WRONLY)
    with waiting() as worker:
        for number in range(500):
            os.write(pipe, request(worker, f"scope {number}", number=0))
        recorder.wait(TimerExpired, worker, count=500)
    os.close(pipe)


# -- who it is -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("root")
def test_a_worker_that_became_roots_process_is_not_signalled(
    sockets: SocketPair, recorder: Recorder
) -> None:
    policy = ReapPolicy(users=frozenset({OTHER_UID}))
    server = sockets.server(observer=recorder, policy=policy)
    sockets.directory.chmod(0o711)
    sudo = sockets.directory / "sudo"
    shutil.copy("/usr/bin/setpriv", sudo)
    sudo.chmod(0o4755)
    go, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            become(OTHER_UID)
            timers.SocketTimerClient(sockets.path).acquire("mine", time.time() + 1)
            os.read(go, 1)
            null = os.open(os.devnull, os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
            os.execv(sudo, ["sudo", "--reuid=0", "sleep", "1000"])
        os._exit(1)
    try:
        eventually(lambda: server.statistics.requests == 1)
        os.write(said, b"x")
        eventually(lambda: _uids(pid) == {"0"}, "it is root's")
        eventually(lambda: server.statistics.scope("mine").expirations == 1)
        worker = sockets.worker()
        # Of this user: accepted as well.
        worker.tell("stuck", "hang", 0.3)
        recorder.wait(WorkerKilled, worker.pid)
        eventually(
            lambda: server.statistics.scope("mine").reaps[Outcome.NOT_PERMITTED] > 0,
            "the kill was refused",
            timeout=15,
        )
        # Before it ends by this test, of which the server takes note at once.
        assert recorder.of(WorkerKilled, pid) == []
        assert dropped(pid) == -signal.SIGKILL
    finally:
        dropped(pid)
        os.close(go)
        os.close(said)


def _uids(pid: int) -> set[str]:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        [line] = [line for line in file if line.startswith("Uid:")]
    return set(line.split()[1:])


# -- the queue of multiprocessing ----------------------------------------------------------------


class Payload:
    """An object that runs code where it is unpickled."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return _note_pid, (self._path,)


def _note_pid(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(str(os.getpid()))


def _put(queue: Any, path: str) -> None:
    queue.put(Payload(path))


def test_a_worker_of_the_local_pair_can_run_code_in_the_server(
    recorder: Recorder, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    server = LocalTimerServer(queue, observer=recorder)
    server.start()
    try:
        worker = context.Process(target=_put, args=(queue, str(tmp_path / "pid")))
        worker.start()
        worker.join()
        eventually(lambda: server.statistics.rejected["wrong_type"] == 1)
        assert (tmp_path / "pid").read_text() == str(os.getpid())
    finally:
        server.stop()
        queue.close()


def test_nothing_that_comes_over_the_pipe_or_the_socket_is_unpickled(
    either: FilePair | SocketPair, recorder: Recorder, tmp_path: Path
) -> None:
    server = either.server(observer=recorder)
    data = pickle.dumps(Payload(str(tmp_path / "pid"))).replace(b"\n", b" ") + b"\n"
    if either.prefix:
        with connect(str(either.path)) as connection:
            connection.send(data)
            eventually(lambda: _seen(server) >= 1)
    else:
        pipe = os.open(either.path, os.O_WRONLY)
        os.write(pipe, data)
        eventually(lambda: _seen(server) >= 1)
        os.close(pipe)
    assert not (tmp_path / "pid").exists()
