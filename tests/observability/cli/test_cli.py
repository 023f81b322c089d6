from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from observability.cli._options import read_token
from observability.cli._top import render
from observability.cli.main import main
from observability.http.address import Address
from observability.sinks.log import LEVELS
from support.command import Cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["run", "serve", "check"])
def test_every_option_has_its_environment_variable_and_says_so(name: str) -> None:
    command = main.commands[name]
    shown = re.sub(r"\s+", " ", CliRunner().invoke(main, [name, "--help"]).output)
    options = [each for each in command.params if isinstance(each, click.Option)]
    assert options
    for each in options:
        variable = "TIMERS_" + max(each.opts, key=len)[2:].upper().replace("-", "_")
        assert each.envvar == variable
        assert f"env var: {variable}" in shown
        assert each.help


def test_the_levels_are_those_of_the_log() -> None:
    level = next(each for each in main.commands["run"].params if each.name == "level")
    assert isinstance(level.type, click.Choice)
    assert tuple(level.type.choices) == LEVELS


def test_help_and_version() -> None:
    for arguments in (["--help"], ["-h"], ["run", "-h"], ["top", "--help"]):
        ran = CliRunner().invoke(main, arguments)
        assert ran.exit_code == 0
        assert "Usage: " in ran.output
    assert re.search(r"\d+\.\d+", CliRunner().invoke(main, ["--version"]).output)


def test_help_is_quick_to_load() -> None:
    heavy = "'uvicorn', 'starlette', 'rich', 'prometheus_client', 'structlog'"
    script = (
        f"import sys, observability.cli.main; print([m for m in ({heavy}) if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("shell", "mark"), [("bash", "complete "), ("zsh", "#compdef timers"), ("fish", "complete ")]
)
def test_completion_scripts(shell: str, mark: str) -> None:
    ran = CliRunner().invoke(main, ["completion", shell])
    assert ran.exit_code == 0
    assert mark in ran.output
    assert "_TIMERS_COMPLETE" in ran.output


def test_completion_of_another_shell() -> None:
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2


def test_completion_completes(tmp_path: Path) -> None:
    environment = {
        "_TIMERS_COMPLETE": "bash_complete",
        "COMP_WORDS": "timers run --max",
        "COMP_CWORD": "2",
    }
    with Cli(tmp_path).start(env=environment) as process:
        assert process.communicate(timeout=60)[0] == "plain,--max-interval\n"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", Address("127.0.0.1", 9464)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("[::1]:80", Address("::1", 80)),
        ("localhost:65535", Address("localhost", 65535)),
        ("9464", Address("127.0.0.1", 9464)),
        ("127.0.0.2", Address("127.0.0.2", 9464)),
        ("gpu-1.cluster", Address("gpu-1.cluster", 9464)),
        ("[::1]", Address("::1", 9464)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "x y", "9" * 9, "host:", ":80", "host:65536", "host:-1", "::1:80", "h:٣"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        Address.parse(text)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_which_addresses_are_this_machine_alone(host: str, local: bool) -> None:
    assert Address(host, 1).is_loopback is local


@pytest.mark.parametrize("content", [b"", b" \n", b"two\nlines", b"\xff", b"x" * 5000, b"a\x00b"])
def test_what_is_no_token(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(click.UsageError, match="token file"):
        read_token(str(path))


def test_a_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(" s3cret \n")
    assert read_token(str(path)) == "s3cret"


@pytest.mark.process
def test_check_on_a_good_machine(tmp_path: Path) -> None:
    ran = Cli(tmp_path).run("check", "--http", "127.0.0.1:0")
    assert ran.returncode == 0
    assert re.search(
        r"^(ok|warning) +rehearsal +a stuck worker was reaped", ran.stdout, re.MULTILINE
    )
    assert re.search(r"^ok +py-spy", ran.stdout, re.MULTILINE)
    assert "failed" not in ran.stdout


@pytest.mark.process
def test_check_without_py_spy_and_with_a_port_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = Cli(tmp_path).run(
            "check", "--http", f"127.0.0.1:{taken.getsockname()[1]}",
            env={"TIMERS_PY_SPY": "/no/such/file", "TIMERS_PYSTACK": "/no/such/file"},
        )  # fmt: skip
    assert ran.returncode == 0
    assert re.search(r"^warning +py-spy +TIMERS_PY_SPY=/no/such/file", ran.stdout, re.MULTILINE)
    assert re.search(r"^warning +rehearsal .*is not known", ran.stdout, re.MULTILINE)
    assert re.search(r"^warning +http .*in use", ran.stdout, re.MULTILINE)


def test_check_where_nothing_can_be_reaped(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.temporary.rmdir()
    # No directory for the pipe: neither here nor anywhere else that tempfile would try.
    script = (
        "import tempfile; tempfile.tempdir = '/no/such/directory';"
        "from observability.cli.main import main; main(['check', '--http', 'off'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert re.search(r"^failed +rehearsal .*/no/such/directory", ran.stdout, re.MULTILINE)


def _timer(**fields: Any) -> dict[str, Any]:
    return {
        "worker_pid": 4711,
        "scope_id": "all_reduce",
        "age_seconds": 59.5,
        "after_seconds": 3700.0,
        "remaining_seconds": -0.25,
        "used_ratio": 1.01,
        "expired": True,
        **fields,
    }


def _answer(**fields: Any) -> dict[str, Any]:
    totals = dict.fromkeys(("acquires", "releases", "expirations", "reaps", "rejected"), 7)
    return {
        "run_id": "run-1",
        "host": "gpu-17",
        "workers": 2,
        "active": 1,
        "totals": totals,
        "timers": [_timer(rank=3)],
        "reaps": [],
        **fields,
    }


def _drawn(answer: dict[str, Any]) -> str:
    file = io.StringIO()
    Console(file=file, width=150).print(render(answer))
    return file.getvalue()


def test_top_shows_timers_and_reaps() -> None:
    reap = {
        "timestamp": "2026-01-31T12:00:00.000001Z",
        "worker_pid": 99,
        "rank": 1,
        "scope_id": "load",
        "outcome": "killed",
        "frame": "/home/user/train.py:42 load_batch",
    }
    drawn = _drawn(_answer(reaps=[reap], active=17))
    assert re.search(r"4711\s+3\s+59\.5s\s+1h01m\s+-0\.2s\s+101%\s+all_reduce", drawn)
    assert "17 timers (1 shown)" in drawn
    assert re.search(
        r"2026-01-31T12:00:00Z\s+pid 99 rank 1\s+killed\s+load\s+/home/user/train.py:42", drawn
    )


def test_top_lets_no_worker_move_the_cursor() -> None:
    drawn = _drawn(_answer(timers=[_timer(scope_id="a\x1b[2Jb[bold]c[/nothing]")]))
    assert "\x1b" not in drawn
    assert r"a\x1b[2Jb[bold]c[/nothing]" in drawn


def test_a_misspelled_event_is_refused() -> None:
    result = CliRunner().invoke(main, ["run", "--include", "timer aquired", "--", "true"])
    assert result.exit_code == 2
    assert "no event 'timer aquired'" in result.output
    assert "timer acquired, " in result.output


@pytest.mark.parametrize("text", ["task", "=5", "task=", "task=0", "task=soon", "task=-1"])
def test_what_is_no_deadline_of_automatic_timers_is_refused(text: str) -> None:
    result = CliRunner().invoke(main, ["run", "--auto-after", text, "--", "true"])
    assert result.exit_code == 2
    assert f"{text!r}: " in result.output
