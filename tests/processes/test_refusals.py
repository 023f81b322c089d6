"""What cannot be done is said in a line, with an exit code; never by a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.command import TIMERS, Cli

if TYPE_CHECKING:
    from pathlib import Path

NO_TEMPORARY_DIRECTORY = """
import sys, tempfile
def mkdtemp(**_):
    raise FileNotFoundError(2, "No usable temporary directory found")
tempfile.mkdtemp = mkdtemp
from observability.cli.main import main
main(prog_name="timers")
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def refused(cli: Cli, *command: str, stdout: int = subprocess.PIPE) -> tuple[int, str]:
    ran = subprocess.run(
        command,
        env={**cli.environment, "TIMERS_HTTP": "off"},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    cli.assert_nothing_left()
    assert "Traceback" not in ran.stderr
    return ran.returncode, ran.stderr


def test_without_a_temporary_directory_a_run_says_what_to_do(cli: Cli) -> None:
    python = (sys.executable, "-c", NO_TEMPORARY_DIRECTORY)
    code, said = refused(cli, *python, "run", "--", "true")
    assert code == 2
    assert said.startswith("Error: no directory for the pipe and the socket: No usable temporary")
    assert "TMPDIR" in said
    assert said.count("\n") == 1
    chosen = ("--timer-file", f"{cli.temporary.parent}/pipe", "--timer-socket", "off")
    assert refused(cli, *python, "run", *chosen, "--", "true")[0] == 0


@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        ("", 127, "'': command not found"),
        (os.fsdecode(b"\xff"), 127, "command not found"),
        ("/", 126, "/: Permission denied"),
        ("/etc/passwd", 126, "/etc/passwd: Permission denied"),
        ("/etc/passwd/x", 126, "/etc/passwd/x: Not a directory"),
    ],
)
def test_a_command_that_cannot_be_started(cli: Cli, command: str, code: int, why: str) -> None:
    ended, said = refused(cli, *TIMERS, "run", "--", command)
    assert ended == code
    assert why in said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("run", "--http", "x" * 300 + ":1", "--http-insecure", "--", "true"), "no name of a host"),
        (("run", "--http", "a..b:1", "--http-insecure", "--", "true"), "no name of a host"),
        (("run", "--events", "/nowhere/events", "--", "true"), "No such file"),
        (("run", "--timer-file", "/nowhere/pipe", "--", "true"), "--timer-file /nowhere/pipe"),
        (("serve", "--timer-file", "/nowhere/pipe"), "--timer-file /nowhere/pipe"),
        (("report", os.fsdecode(b"\xff")), r"cannot read \udcff"),
    ],
)
def test_what_was_asked_for_is_not_possible(cli: Cli, arguments: tuple[str, ...], why: str) -> None:
    code, said = refused(cli, *TIMERS, *arguments)
    assert code == 2
    assert why in said
    assert said.count("\n") == 1


def test_a_working_directory_that_is_gone(cli: Cli, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    # The installed command has no "" in its path either, with which 3.13.0 fails by itself there.
    script = 'mkdir "$0" && cd "$0" && rmdir "$0" && PYTHONSAFEPATH=1 exec "$@"'
    run = ("sh", "-c", script, str(gone), *TIMERS)
    assert refused(cli, *run, "run", "--", "true")[0] == 0
    for option in ("--timer-file", "--events", "--dump-dir"):
        code, said = refused(cli, *run, "run", option, "here", "--", "true")
        assert (code, said.count("\n")) == (2, 1), said


@pytest.mark.parametrize("limit", [6, 7, 9])
def test_too_few_descriptors(cli: Cli, limit: int) -> None:
    script = f'ulimit -n {limit}; exec "$@"'
    code, said = refused(cli, "sh", "-c", script, "sh", *TIMERS, "run", "--", "true")
    assert code == 2
    assert "Too many open files" in said


@pytest.mark.parametrize(
    "arguments",
    [("--version",), ("run", "--help"), ("completion", "bash"), ("check",)],
    ids=lambda arguments: arguments[0],
)
def test_an_output_that_takes_nothing(cli: Cli, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        code, said = refused(cli, *TIMERS, *arguments, stdout=full.fileno())
    assert (code, said) == (2, "Error: [Errno 28] No space left on device\n")
