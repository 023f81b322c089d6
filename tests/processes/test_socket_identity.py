"""Who may have whom killed over the socket: the kernel says who calls, and nobody else does."""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.children import FORKS, OTHER_UID, alive, dropped, in_child, waiting
from support.processes import VICTIMS
from support.waiting import eventually
from timers import ReapPolicy, SocketTimerClient
from timers.errors import InsecurePathError, PathOccupiedError
from timers.events import Outcome, RequestRejected, StackDumped, TimerExpired, WorkerKilled
from timers.linux import procfs
from timers.transport.socket_path import connect
from timers.transport.wire import BOARD
from victims.worker import FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.recording import Recorder
    from support.servers import SocketPair

pytestmark = FORKS


def request(pid: int, scope: str, *, after: float = 0.0, number: int = 9, **extra: Any) -> bytes:
    """An acquire that says it comes from ``pid``."""
    return json.dumps(
        {
            "version": 1,
            "pid": pid,
            "scope_id": scope,
            "expiration_time": time.time() + after,
            "signal": number,
            **extra,
        }
    ).encode()


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with connect(str(path)) as connection:
        connection.setblocking(True)
        yield connection


def sentinel(sockets: SocketPair, recorder: Recorder) -> None:
    """A worker that is reaped: what was due before has been done by then."""
    worker = sockets.worker()
    worker.tell("stuck", "last", 0.3)
    recorder.wait(WorkerKilled, worker.pid)


def test_a_pid_in_a_message_names_nobody(sockets: SocketPair, recorder: Recorder) -> None:
    server = sockets.server(observer=recorder)
    with waiting() as victim, connected(sockets.path) as connection:
        started = procfs.start_time(victim)
        connection.send(request(victim, "forged", start_time=started))
        # This process is the server: whoever it names, the request is from here, and is refused.
        refused = recorder.wait(RequestRejected)
        assert (refused.reason, refused.worker_pid) == ("protected_process", os.getpid())
        sentinel(sockets, recorder)
        assert alive(victim)
        assert recorder.names(victim) == []
        assert server.statistics.rejected["protected_process"] == 1


@pytest.mark.usefixtures("root")
def test_a_worker_that_names_another_is_the_one_that_is_killed(
    sockets: SocketPair, recorder: Recorder
) -> None:
    sockets.server(observer=recorder)
    with waiting() as victim:
        forger = subprocess.Popen(
            [sys.executable, VICTIMS / "forger.py", sockets.path, str(victim)],
            stdin=subprocess.PIPE,
        )
        killed = recorder.wait(WorkerKilled)
        assert killed.worker.pid == forger.pid
        assert forger.wait() == -signal.SIGKILL
        assert forger.stdin is not None
        forger.stdin.close()
        assert alive(victim)


def test_a_connection_that_was_passed_on_speaks_for_nobody(
    sockets: SocketPair, recorder: Recorder
) -> None:
    server = sockets.server(observer=recorder)
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:  # connects, hands the connection over and waits
        with contextlib.suppress(BaseException):
            connection = connect(str(sockets.path))
            descriptors = array.array("i", [connection.fileno()])
            theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
            theirs.recv(1)
        os._exit(0)
    try:
        _, [fd], _, _ = socket.recv_fds(ours, 1, 1)
        with socket.socket(fileno=fd) as passed:
            passed.setblocking(True)
            passed.send(request(pid, "passed"))
            refused = recorder.wait(RequestRejected)
        assert refused.reason == "identity_mismatch"
        assert refused.detail == (
            f"process {os.getpid()} sent a request over the connection of process {pid}"
        )
        sentinel(sockets, recorder)
        assert alive(pid)
        assert recorder.of(TimerExpired, pid) == []
        assert server.statistics.rejected["identity_mismatch"] == 1
    finally:
        ours.close()
        theirs.close()
        dropped(pid)


@pytest.mark.usefixtures("root")
def test_another_user_may_not_connect(sockets: SocketPair, recorder: Recorder) -> None:
    sockets.server(observer=recorder)
    sockets.directory.chmod(0o711)

    def refused() -> bool:
        os.setgroups([])
        os.setresgid(OTHER_UID, OTHER_UID, OTHER_UID)
        os.setresuid(OTHER_UID, OTHER_UID, OTHER_UID)
        with (
            pytest.raises(PermissionError),
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as attempt,
        ):
            attempt.connect(str(sockets.path))
        return True

    assert in_child(refused)
    assert sockets.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("root")
def test_another_user_that_gets_to_the_socket_is_turned_away(
    sockets: SocketPair, recorder: Recorder
) -> None:
    server = sockets.server(observer=recorder)
    sockets.directory.chmod(0o711)
    sockets.path.chmod(0o666)  # somebody's mistake

    def sends_in_vain() -> bool:
        os.setgroups([])
        os.setresgid(OTHER_UID, OTHER_UID, OTHER_UID)
        os.setresuid(OTHER_UID, OTHER_UID, OTHER_UID)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as attempt:
            attempt.connect(str(sockets.path))
            with contextlib.suppress(BrokenPipeError):
                attempt.send(request(os.getppid(), "theirs"))
            with contextlib.suppress(ConnectionResetError):
                assert attempt.recv(1) == b""  # hung up on
        return True

    assert in_child(sends_in_vain)
    refused = recorder.wait(RequestRejected)
    assert refused.reason == "other_user"
    assert server.statistics.requests == 0


@pytest.mark.usefixtures("root")
def test_another_user_that_is_named_is_served(sockets: SocketPair, recorder: Recorder) -> None:
    policy = ReapPolicy(users=frozenset({OTHER_UID}))
    sockets.server(observer=recorder, policy=policy)
    sockets.directory.chmod(0o711)
    with waiting(uid=OTHER_UID) as bystander:
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.setgroups([])
                os.setresgid(OTHER_UID, OTHER_UID, OTHER_UID)
                os.setresuid(OTHER_UID, OTHER_UID, OTHER_UID)
                SocketTimerClient(sockets.path).acquire("theirs", time.time() + 0.2)
                time.sleep(1000)
            os._exit(1)
        killed = recorder.wait(WorkerKilled, pid)
        assert killed.outcome is Outcome.KILLED
        assert dropped(pid) == -signal.SIGKILL
        assert alive(bystander)


@pytest.mark.usefixtures("root")
def test_a_client_does_not_talk_to_a_squatter(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as squatter:
        squatter.bind(str(path))

        def listens() -> bool:  # who listens is who it is, not who created the path
            os.setresuid(OTHER_UID, OTHER_UID, OTHER_UID)
            squatter.listen()
            return True

        assert in_child(listens)
        client = SocketTimerClient(path, on_error="raise", connect_timeout=0)
        with pytest.raises(InsecurePathError, match=f"user {OTHER_UID} listens there"):
            client.acquire("secret", time.time() + 60)
        connection, _ = squatter.accept()
        with connection:
            assert connection.recv(4096) == b""  # it was told nothing
        expected = SocketTimerClient(path, server_users=[OTHER_UID])
        expected.acquire("x", time.time() + 60)
        connection, _ = squatter.accept()
        with connection:
            assert connection.recv(4096) == BOARD
        del expected


@pytest.mark.usefixtures("root")
def test_a_server_leaves_the_socket_of_another_user_alone(
    sockets: SocketPair, recorder: Recorder
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as squatter:
        squatter.bind(str(sockets.path))
    os.chown(sockets.path, OTHER_UID, OTHER_UID)
    with pytest.raises(PathOccupiedError, match=f"belongs to user {OTHER_UID}"):
        sockets.server(observer=recorder)
    assert sockets.path.is_socket()


@pytest.mark.usefixtures("root")
def test_a_worker_in_a_pid_namespace_is_dumped_and_killed_and_nobody_else(
    sockets: SocketPair, recorder: Recorder
) -> None:
    sockets.server(observer=recorder)
    bystander = sockets.namespaced_worker()
    stuck = sockets.namespaced_worker()
    assert stuck.hello["pid"] == bystander.hello["pid"] == 1  # as they see themselves
    bystander.do("enter", "fine", 3600)
    stuck.do("enter", "also fine", 3600)
    stuck.tell("stuck", "inside", 0.5, thread="other")
    killed = recorder.wait(WorkerKilled)
    stack = recorder.of(StackDumped)[0]
    pid = killed.worker.pid
    assert isinstance(pid, int)
    assert pid != 1
    assert stack.worker.pid == stack.dump.pid == pid
    # Its thread has another number here than for itself, where py-spy finds it.
    thread = stack.dump.thread(killed.timer.thread)
    assert thread is not None
    frames = [(frame.function, frame.file, frame.line) for frame in thread.frames]
    assert ("stuck_here", FILE, stuck.hello["stuck_line"]) in frames
    eventually(lambda: stuck_is_gone(sockets, pid), "its namespace ended with it")
    assert bystander.do("thread_id") == 1


def stuck_is_gone(sockets: SocketPair, pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}") and any(
        process.poll() is not None for process in sockets.processes.values()
    )
