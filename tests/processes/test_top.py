from __future__ import annotations

import http.server
import os
import threading
from typing import TYPE_CHECKING

import pytest

from support.command import Cli
from support.service import running, worker
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from observability.service import Service


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as service:
        yield service


def test_once(cli: Cli, service: Service) -> None:
    with worker(service, "inside", RANK="3") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        eventually(lambda: service.server._timers)
        for arguments, environment in (
            ([str(service.address)], {}),
            ([f"http://{service.address}/"], {}),
            ([], {"TIMERS_HTTP": str(service.address), "http_proxy": "http://127.0.0.1:1"}),
        ):
            ran = cli.run("top", "--once", *arguments, env=environment)
            assert ran.returncode == 0, ran.stderr
            assert str(process.pid) in ran.stdout
            assert "inside" in ran.stdout


def test_with_a_token(cli: Cli, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    (tmp_path / "service").mkdir()
    with running(tmp_path / "service", token="s3cret") as service:
        ran = cli.run("top", "--once", str(service.address), "--http-token-file", token)
        assert ran.returncode == 0
        ran = cli.run("top", "--once", str(service.address))
        assert ran.returncode == 1
        assert "401" in ran.stderr
        assert "token" in ran.stderr


def test_nobody_there(cli: Cli) -> None:
    ran = cli.run("top", "--once", "127.0.0.1:1")
    assert ran.returncode == 1
    assert "http://127.0.0.1:1" in ran.stderr
    assert "refused" in ran.stderr


def test_somebody_else_is_there(cli: Cli) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.handle_request).start()
        ran = cli.run("top", "--once", f"127.0.0.1:{other.server_port}")
    assert ran.returncode == 1
    assert "501" in ran.stderr


@pytest.mark.parametrize("url", ["ftp://x", "::1", "http://"])
def test_what_is_no_url(cli: Cli, url: str) -> None:
    assert cli.run("top", "--once", url).returncode == 2


def test_a_live_table_needs_a_terminal(cli: Cli, service: Service) -> None:
    ran = cli.run("top", str(service.address))
    assert ran.returncode == 2
    assert "--once" in ran.stderr


def test_live(cli: Cli, service: Service) -> None:
    ours, theirs = os.openpty()
    try:
        with cli.start(
            "top", service.address, "--interval", "0.05",
            stdin=theirs, stdout=theirs, stderr=theirs, env={"TERM": "xterm"},
        ) as process:  # fmt: skip
            seen = ""

            def until(text: str) -> None:
                nonlocal seen
                while text not in seen:
                    seen += os.read(ours, 65536).decode()
                seen = seen.partition(text)[2]

            until("0 timers")
            with worker(service, "inside") as inside:
                until("inside")
                inside.communicate("\n", timeout=60)
            service.stop()
            until("refused")
            process.send_signal(2)
            assert process.wait(60) == 0
            until("\x1b[?1049l")  # the terminal is given back as it was
    finally:
        os.close(theirs)
        os.close(ours)
