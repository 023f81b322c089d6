from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.command import SUPERVISED, Cli
from support.log_lines import read
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FREE = ("--http", "127.0.0.1:0")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


class Systemd:
    """The socket that systemd would listen to."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(60)
        self.environment = {"NOTIFY_SOCKET": address}

    def next(self) -> str:
        return self.socket.recv(4096).decode()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    path = str(tmp_path / "notify")
    systemd = Systemd(path if request.param == "path" else f"@{path}")
    yield systemd
    systemd.socket.close()


@pytest.fixture
def plain_systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(str(tmp_path / "notify"))
    yield systemd
    systemd.socket.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_from_start_to_stop(
    cli: Cli, tmp_path: Path, systemd: Systemd, number: signal.Signals
) -> None:
    path = tmp_path / "pipe"
    with cli.start(
        "serve", *FREE, "--timer-file", path, env=systemd.environment, stderr=subprocess.PIPE
    ) as process:
        assert systemd.next() == "READY=1"
        assert path.is_fifo()
        worker = subprocess.run(
            [*SUPERVISED, "stuck"], env={**os.environ, "TIMERS_FILE": str(path)}, check=False
        )
        assert worker.returncode == -signal.SIGKILL
        process.send_signal(number)
        assert systemd.next() == "STOPPING=1"
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0
    assert '"kill worker process"' in err
    assert "serves http://127.0.0.1:" in err
    assert not path.exists()
    cli.assert_nothing_left()


def test_tells_systemd_that_the_watchdog_is_at_work(
    cli: Cli, tmp_path: Path, plain_systemd: Systemd
) -> None:
    environment = {**plain_systemd.environment, "WATCHDOG_USEC": "50000"}
    with cli.start("serve", *FREE, "--timer-file", tmp_path / "pipe", env=environment) as process:
        assert plain_systemd.next() == "READY=1"
        assert [plain_systemd.next() for _ in range(3)] == ["WATCHDOG=1"] * 3
        process.terminate()
        assert process.wait(60) == 0


def test_a_watchdog_of_another_process_is_not_ours(
    cli: Cli, tmp_path: Path, plain_systemd: Systemd
) -> None:
    environment = {
        **plain_systemd.environment,
        "WATCHDOG_USEC": "1000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    with cli.start("serve", *FREE, "--timer-file", tmp_path / "pipe", env=environment) as process:
        assert plain_systemd.next() == "READY=1"
        process.terminate()
        assert plain_systemd.next() == "STOPPING=1"
        assert process.wait(60) == 0


def test_without_systemd(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    with cli.start("serve", *FREE, "--timer-file", path, env={"NOTIFY_SOCKET": "/no/one"}) as serve:
        eventually(path.is_fifo)
        serve.terminate()
        assert serve.wait(60) == 0


def test_sighup_opens_the_events_file_anew(
    cli: Cli, tmp_path: Path, plain_systemd: Systemd
) -> None:
    events = tmp_path / "events"
    arguments = ("serve", *FREE, "--timer-file", tmp_path / "pipe", "--events", events)
    with cli.start(*arguments, env=plain_systemd.environment) as process:
        assert plain_systemd.next() == "READY=1"
        eventually(lambda: events.exists() and '"notice"' in events.read_text())
        events.rename(tmp_path / "events.1")
        process.send_signal(signal.SIGHUP)
        process.terminate()
        assert process.wait(60) == 0
    assert [line["event"] for line in read(events)] == ["watchdog stopped"]
    names = [line["event"] for line in read(tmp_path / "events.1")]
    assert names == ["watchdog started", "notice"]


@pytest.mark.parametrize("variable", ["XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY"])
def test_the_default_path(cli: Cli, tmp_path: Path, plain_systemd: Systemd, variable: str) -> None:
    environment = {**plain_systemd.environment, "XDG_RUNTIME_DIR": "", variable: str(tmp_path)}
    with cli.start("serve", *FREE, env=environment) as process:
        assert plain_systemd.next() == "READY=1"
        assert (tmp_path / "timers.pipe").is_fifo()
        process.terminate()
        assert process.wait(60) == 0


def test_without_a_path(cli: Cli) -> None:
    ran = cli.run("serve", *FREE, env={"XDG_RUNTIME_DIR": "", "RUNTIME_DIRECTORY": ""})
    assert ran.returncode == 2
    assert "--timer-file" in ran.stderr


def test_a_live_server_is_left_alone(cli: Cli, tmp_path: Path, plain_systemd: Systemd) -> None:
    arguments = ("serve", *FREE, "--timer-file", tmp_path / "pipe")
    with cli.start(*arguments, env=plain_systemd.environment) as process:
        assert plain_systemd.next() == "READY=1"
        second = Cli(tmp_path / "second").run(*arguments)
        assert second.returncode == 2
        assert "live timer server" in second.stderr
        process.terminate()
        assert process.wait(60) == 0


def test_other_machines_need_a_token(cli: Cli, tmp_path: Path) -> None:
    ran = cli.run("serve", "--http", "0.0.0.0:0", "--timer-file", tmp_path / "pipe")
    assert ran.returncode == 2
    assert "--http-token-file" in ran.stderr
    assert not (tmp_path / "pipe").exists()


def test_it_is_a_module_too(cli: Cli) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "observability", "--help"],
        env=cli.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Usage: timers" in ran.stdout


def test_signals_that_mean_nothing_here_are_ignored(
    cli: Cli, tmp_path: Path, plain_systemd: Systemd
) -> None:
    arguments = ("serve", *FREE, "--timer-file", tmp_path / "pipe", "--events", tmp_path / "events")
    with cli.start(*arguments, env=plain_systemd.environment) as process:
        assert plain_systemd.next() == "READY=1"
        for name in ("USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "RTMIN", "RTMAX"):
            process.send_signal(getattr(signal, f"SIG{name}"))
        process.send_signal(signal.SIGTERM)
        assert plain_systemd.next() == "STOPPING=1"
        assert process.wait(60) == 0
    cli.assert_nothing_left()
