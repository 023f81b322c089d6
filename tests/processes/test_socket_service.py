"""``timers run`` and ``timers serve`` offer the socket beside the pipe; one server watches both."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.command import SUPERVISED, TIMERS, Cli, get, json_lines
from support.log_lines import read
from support.processes import VICTIMS
from support.service import running
from support.waiting import eventually
from timers.server.reaper import ReapPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

FREE = ("--http", "off")
RELEASED = 'timers_releases_total{scope="block"} 1.0\n'
BOTH = [sys.executable, str(VICTIMS / "both_pairs.py")]


@pytest.fixture
def directory() -> Iterator[Path]:
    """One whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def cli(directory: Path) -> Cli:
    return Cli(directory)


def test_a_worker_that_uses_both_is_reaped_once(cli: Cli, directory: Path) -> None:
    events = directory / "events"
    ran = cli.run("run", *FREE, "--events", events, "--", *BOTH)
    assert ran.returncode == 128 + signal.SIGKILL
    lines = read(events)
    names = [line["event"] for line in lines if "worker_pid" in line]
    assert names.count("kill worker process") == 1
    assert "worker exited" not in names
    assert {line["worker_pid"] for line in lines if "worker_pid" in line} != set()
    [killed] = [line for line in lines if line["event"] == "kill worker process"]
    assert sorted(timer["scope_id"] for timer in killed["timers"]) == [
        "by pipe",
        "by socket",
        "open",
    ]
    cli.assert_nothing_left()


def test_under_run_a_worker_is_configured_for_the_socket(cli: Cli) -> None:
    script = "import timers; print(type(timers.configure_from_env()).__name__)"
    with cli.start("run", *FREE, "--", sys.executable, "-c", script) as process:
        out, _ = process.communicate(timeout=60)
    assert out == "SocketTimerClient\n"


def test_the_socket_can_be_left_out_and_that_of_another_run_is_not_passed_on(cli: Cli) -> None:
    script = "import timers; print(type(timers.configure_from_env()).__name__)"
    with cli.start(
        "run",
        *FREE,
        "--timer-socket",
        "off",
        "--",
        sys.executable,
        "-c",
        script,
        env={"TIMERS_SOCKET": "/elsewhere"},
    ) as process:
        out, _ = process.communicate(timeout=60)
    assert out == "FileTimerClient\n"


def test_run_where_one_wants_it(cli: Cli, directory: Path) -> None:
    path = directory / "here"
    ran = cli.run("run", *FREE, "--timer-socket", path, "--", *SUPERVISED, "stuck")
    assert ran.returncode == 128 + signal.SIGKILL
    assert not path.exists()
    cli.assert_nothing_left()


def test_a_socket_that_cannot_be_is_a_wrong_usage(cli: Cli, directory: Path) -> None:
    (directory / "file").write_text("mine")
    for path, said in ((directory / "file", "is no socket"), ("@abstract", "abstract")):
        ran = cli.run("run", *FREE, "--timer-socket", path, "--", "true")
        assert ran.returncode == 2
        assert said in " ".join(ran.stderr.split())
    assert (directory / "file").read_text() == "mine"
    cli.assert_nothing_left()


def test_serve_has_it_beside_the_pipe(cli: Cli, directory: Path) -> None:
    events = directory / "events"
    arguments = ("serve", *FREE, "--timer-file", directory / "x.pipe", "--events", events)
    with cli.start(*arguments) as service:
        eventually((directory / "x.sock").is_socket)
        environment = {**os.environ, "TIMERS_SOCKET": str(directory / "x.sock")}
        with subprocess.Popen([*SUPERVISED, "stuck"], env=environment) as worker:
            assert worker.wait(60) == -signal.SIGKILL
        service.terminate()
        assert service.wait(60) == 0
    assert not (directory / "x.sock").exists()
    assert "kill worker process" in [line["event"] for line in read(events)]


def test_serve_for_users_that_do_not_exist(cli: Cli, directory: Path) -> None:
    ran = cli.run("serve", "--timer-file", directory / "x", "--allow-user", "no-such-user")
    assert ran.returncode == 2
    assert "no-such-user" in ran.stderr


def activated(cli: Cli, listener: socket.socket, *arguments: object) -> subprocess.Popen[str]:
    """``timers serve`` as systemd starts it for a socket unit."""
    start = "import os; os.environ['LISTEN_PID'] = str(os.getpid()); os.dup2({fd}, 3); {main}"
    main = TIMERS[-1]
    return subprocess.Popen(
        [sys.executable, "-c", start.format(fd=listener.fileno(), main=main), *map(str, arguments)],
        env={**cli.environment, "LISTEN_FDS": "1"},
        pass_fds=(listener.fileno(), 3) if listener.fileno() != 3 else (3,),
        stderr=subprocess.PIPE,
        text=True,
    )


def counts(address: str, line: str) -> bool:
    return line in get(address, "/metrics")[1]


def test_a_service_that_systemd_restarts_takes_over_without_a_gap(
    cli: Cli, directory: Path
) -> None:
    path = directory / "activated"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        arguments = ("serve", "--http", "127.0.0.1:0", "--timer-file", directory / "pipe")
        environment = {**os.environ, "TIMERS_SOCKET": str(path)}
        # Nobody serves yet: who connects waits in the queue of the socket.
        with subprocess.Popen(
            [*SUPERVISED, "unwatched"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            assert worker.stdout.readline().startswith("ready")
            for _ in range(2):
                worker.stdin.write("\n")
                worker.stdin.flush()
                assert worker.stdout.readline() == "ran\n"
                with activated(cli, listener, *arguments) as service:
                    assert service.stderr is not None
                    address = json_lines([service.stderr.readline()])[0]["url"].split("/")[2]
                    # The block that ran while nobody served, and no other.
                    eventually(partial(counts, address, RELEASED), RELEASED)
                    service.terminate()
                    assert service.wait(60) == 0
                assert path.is_socket()  # it is not the service's
            worker.stdin.close()
            assert worker.wait(60) == 0


def test_a_socket_of_another_kind_is_a_wrong_usage(cli: Cli, directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with activated(cli, listener, "serve", "--timer-file", directory / "pipe") as service:
            _, err = service.communicate(timeout=60)
        assert service.returncode == 2
        assert "ListenSequentialPacket=" in err


def test_a_service_in_this_process(directory: Path) -> None:
    path = directory / "socket"
    with running(directory, ReapPolicy(), http=None, timer_socket=str(path)) as service:
        assert path.is_socket()
        environment = {**os.environ, "TIMERS_SOCKET": str(path)}
        with subprocess.Popen([*SUPERVISED, "stuck"], env=environment) as worker:
            assert worker.wait(60) == -signal.SIGKILL
        scopes = service.server.statistics.scopes
        assert eventually(lambda: sum(scopes["stuck"].reaps.values())) == 1
    assert not path.exists()
