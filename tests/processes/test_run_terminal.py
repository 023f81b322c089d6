"""``timers run`` at a terminal: a real one, as far as the kernel is concerned (pty(7))."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any

import pytest

from support.command import SUPERVISED, Cli
from support.processes import VICTIMS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FREE = ("--http", "127.0.0.1:0")


class Terminal:
    """A terminal, and the session leader that works at it: ``timers run ... COMMAND``."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.openpty()
        self._seen = ""

    def options(self) -> dict[str, Any]:
        return {
            "stdin": self.theirs,
            "stdout": self.theirs,
            "stderr": self.theirs,
            "start_new_session": True,
            "preexec_fn": lambda: fcntl.ioctl(self.theirs, termios.TIOCSCTTY, 0),
        }

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def until(self, text: str) -> str:
        """Read up to ``text``, and return what was before it."""
        while text not in self._seen:
            data = os.read(self.ours, 65536)
            assert data, f"{text!r} never came: {self._seen!r}"
            self._seen += data.decode()
        before, _, self._seen = self._seen.partition(text)
        return before

    def resize(self, columns: int = 99) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", 33, columns, 0, 0))


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal.theirs)
    os.close(terminal.ours)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def session(cli: Cli, terminal: Terminal) -> Iterator[subprocess.Popen[str]]:
    command = (*SUPERVISED, "terminal")
    with cli.start("run", *FREE, "--", *command, **terminal.options()) as process:
        terminal.until("foreground True")
        terminal.type("hello\n")
        terminal.until("line hello")
        terminal.until("ready")
        yield process
        terminal.type("\n")
        assert process.wait(60) == 0
    cli.assert_nothing_left()


def count(terminal: Terminal, process: subprocess.Popen[str], name: str) -> int:
    """How often the command got a signal by now: it gets what we pass on after it in order."""
    process.send_signal(signal.SIGUSR1)
    return terminal.until("got USR1").count(f"got {name}")


def test_ctrl_c_reaches_the_command_once(
    session: subprocess.Popen[str], terminal: Terminal
) -> None:
    terminal.type("\x03")
    terminal.until("got INT")
    assert count(terminal, session, "INT") == 0


def test_ctrl_backslash_reaches_the_command_once(
    session: subprocess.Popen[str], terminal: Terminal
) -> None:
    terminal.type("\x1c")
    terminal.until("got QUIT")
    assert count(terminal, session, "QUIT") == 0


def test_a_new_size_reaches_the_command_once(
    session: subprocess.Popen[str], terminal: Terminal
) -> None:
    terminal.resize()
    terminal.until("got WINCH")
    assert count(terminal, session, "WINCH") == 0


def test_kill_reaches_the_command_once(session: subprocess.Popen[str], terminal: Terminal) -> None:
    session.send_signal(signal.SIGINT)
    terminal.until("got INT")
    assert count(terminal, session, "INT") == 0


def test_ctrl_c_in_short_succession_kills(cli: Cli, terminal: Terminal) -> None:
    command = (*SUPERVISED, "ignore")
    arguments = ("run", *FREE, "--", *command)
    with cli.start(*arguments, **terminal.options()) as process:
        terminal.until("ready")
        while process.poll() is None:
            terminal.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.25)  # those at the same time count as one
        terminal.until("Ctrl-C once more kills the command")
        assert process.returncode == 128 + signal.SIGKILL
    cli.assert_nothing_left()


def test_a_command_of_another_process_group_gets_ctrl_c_from_us(
    cli: Cli, terminal: Terminal
) -> None:
    arguments = ("run", *FREE, "--", "setsid", *SUPERVISED, "catch")
    with cli.start(*arguments, **terminal.options()) as process:
        terminal.until("ready")
        terminal.type("\x03")
        terminal.until("got INT")
        process.send_signal(signal.SIGUSR1)
        terminal.until("got USR1")
        process.kill()


def test_the_end_is_said_in_one_line_for_reading(cli: Cli, terminal: Terminal) -> None:
    with cli.start("run", *FREE, "--", "sh", "-c", "exit 4", **terminal.options()) as process:
        assert "{" not in terminal.until("The command exited with 4 after ")
        terminal.until(": 0 timers acquired, 0 expired, 0 workers reaped.")
        assert process.wait(60) == 4


def test_everything_is_shown_when_that_is_asked_for(cli: Cli, terminal: Terminal) -> None:
    arguments = ("run", *FREE, "-v", "--", "sh", "-c", "exit 4")
    with cli.start(*arguments, **terminal.options()) as process:
        assert "watchdog started" in terminal.until("run finished")
        terminal.until("exit_code")
        assert process.wait(60) == 4


def test_the_end_is_said_when_the_events_go_to_a_file(
    cli: Cli, terminal: Terminal, tmp_path: Path
) -> None:
    arguments = ("run", *FREE, "--events", tmp_path / "events", "--", "true")
    with cli.start(*arguments, **terminal.options()) as process:
        terminal.until("The command exited with 0 after ")
        assert process.wait(60) == 0


def test_a_reap_is_five_lines_of_eighty_columns(cli: Cli, terminal: Terminal) -> None:
    terminal.resize(80)
    job = (sys.executable, str(VICTIMS / "meeting.py"), "4", "2", "silent", "3", "10")
    arguments = ("run", *FREE, "--", "env", "PYTHONUNBUFFERED=1", *job)
    with cli.start(*arguments, **terminal.options()) as process:
        terminal.until("ready")
        seen = terminal.until("timers report ")
        seen += "timers report " + terminal.until("\n") + "\n"
        terminal.type("\x04")
        terminal.until("The command exited with")
        process.wait(60)
    assert "{" not in seen
    assert "\x1b[" in seen
    lines = re.sub(r"\x1b\[[0-9;]*m", "", seen).replace("\r", "").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("timers: "))
    story = lines[start : start + 5]
    assert all(len(line) <= 80 for line in story)
    who, at, others, done, more = story
    assert who.startswith("timers: Rank 2 (pid ")
    assert re.fullmatch(r"  at      .*meeting\.py:\d+ \w+", at)
    assert others.startswith("  while   3 ranks are waiting ")
    assert re.search(r"^  done    rank \d killed with SIGKILL, [\d.]+ s after its deadline", done)
    assert re.match(r"  more    http://127\.0\.0\.1:\d+/ or timers report /", more)
    assert not [line for line in lines if "watchdog" in line or "stack dumped" in line]
