from __future__ import annotations

import os
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from support.command import SUPERVISED, Cli, get, json_lines
from support.log_lines import read
from support.real_time import require_real_time
from support.waiting import eventually
from timers.transport.fifo_writer import FifoWriter

if TYPE_CHECKING:
    from pathlib import Path

FREE = ("--http", "127.0.0.1:0")


SHOW_POLICY = "import os; print(os.sched_getscheduler(0), os.nice(0), flush=True); input()"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def words(process: subprocess.Popen[str]) -> list[str]:
    """The next line of the command."""
    assert process.stdout is not None
    return process.stdout.readline().split()


def environment(process: subprocess.Popen[str]) -> dict[str, str]:
    found = {}
    while "TORCHELASTIC_TIMER_FILE" not in found:
        name, _, value = " ".join(words(process)).partition("=")
        found[name] = value
    return found


def end(process: subprocess.Popen[str]) -> int:
    """Let the command end by itself."""
    process.communicate("\n", timeout=60)
    return process.returncode


def test_the_service_is_scheduled_in_real_time_and_the_command_is_not(cli: Cli) -> None:
    require_real_time()
    with cli.start("run", *FREE, "--", sys.executable, "-c", SHOW_POLICY) as process:
        assert words(process) == [str(os.SCHED_OTHER), str(os.nice(0))]
        threads = map(int, os.listdir(f"/proc/{process.pid}/task"))
        policies = [os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK for thread in threads]
        assert policies.count(os.SCHED_RR) == 1
        assert end(process) == 0


def test_the_limit_of_open_files_is_raised_for_the_service_alone(cli: Cli) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 256), hard))
    try:
        with cli.start("run", *FREE, "--", "sh", "-c", "ulimit -Sn; read x") as process:
            assert words(process) == [str(min(hard, 256))]
            raised = (hard, hard)
            eventually(lambda: resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == raised)
            assert end(process) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -TERM $$", 128 + signal.SIGTERM),
        ("kill -KILL $$", 128 + signal.SIGKILL),
    ],
)
def test_exits_as_the_command_did(cli: Cli, script: str, code: int) -> None:
    assert cli.run("run", *FREE, "--", "sh", "-c", script).returncode == code
    cli.assert_nothing_left()


def test_a_command_that_is_not_there(cli: Cli) -> None:
    ran = cli.run("run", *FREE, "--events", "-", "--", "no-such-command")
    assert ran.returncode == 127
    notice = next(e for e in json_lines(ran.stderr.splitlines()) if e["event"] == "notice")
    assert notice["level"] == "error"
    assert "no-such-command: command not found" in notice["message"]
    cli.assert_nothing_left()


def test_a_command_that_cannot_be_executed(cli: Cli, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    ran = cli.run("run", *FREE, "--", script)
    assert ran.returncode == 126
    assert str(script) in ran.stderr
    cli.assert_nothing_left()


def test_input_and_output_are_the_commands_own(cli: Cli) -> None:
    command = ("sh", "-c", "cat; echo oops >&2")
    ran = cli.run("run", *FREE, "--events", "-", "--", *command, stdin="a\nb\n")
    assert ran.stdout == "a\nb\n"
    others = [line for line in ran.stderr.splitlines() if line != "oops"]
    assert "oops" in ran.stderr
    assert [e["event"] for e in json_lines(others)] == [
        "watchdog started",
        "watchdog stopped",
        "run finished",
    ]


def test_closed_streams_stay_closed_for_the_command_and_hurt_nobody(
    cli: Cli, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    inner = f"ls /proc/self/fd > {seen}; exit 3"
    script = 'exec "$@" 0<&- 2>&-'
    timers = [sys.executable, "-c", "from observability.cli.main import main; main()"]
    command = ["sh", "-c", script, "sh", *timers, "run", *FREE, "--", "sh", "-c", inner]
    assert subprocess.run(command, env=cli.environment, check=False).returncode == 3
    # 0 is the directory that ls lists, 1 the file.
    assert set(seen.read_text().split()) & {"0", "1", "2"} == {"0", "1"}
    cli.assert_nothing_left()


def test_arguments_are_passed_on_untouched(cli: Cli) -> None:
    ran = cli.run("run", *FREE, "printf", "%s|", "--http", "", "a b", "--", "--help")
    assert ran.stdout == "--http||a b|--|--help|"


def test_the_command_finds_the_addresses_in_its_environment(cli: Cli) -> None:
    with cli.start("run", *FREE, "--run-id", "job-7", "--", *SUPERVISED, "environment") as process:
        found = environment(process)
        assert found["TIMERS_FILE"] == found["TORCHELASTIC_TIMER_FILE"]
        assert os.stat(found["TIMERS_FILE"]).st_mode & 0o777 == 0o600
        assert os.stat(os.path.dirname(found["TIMERS_FILE"])).st_mode & 0o777 == 0o700
        assert found["TIMERS_RUN_ID"] == "job-7"
        assert found["TIMERS_ON_ERROR"] == "warn"
        status, body, _ = get(found["TIMERS_HTTP"], "/metrics")
        assert status == 200
        assert "timers_last_sweep_timestamp_seconds" in body
        assert end(process) == 0
    cli.assert_nothing_left()


def test_a_deep_directory_for_temporary_files_costs_no_socket(cli: Cli, tmp_path: Path) -> None:
    deep = tmp_path / ("deep-" * 20)
    deep.mkdir()
    with cli.start(
        "run", *FREE, "--", *SUPERVISED, "environment", env={"TMPDIR": str(deep)}
    ) as process:
        found = environment(process)
        directories = [os.path.dirname(found["TIMERS_SOCKET"]), found["TIMERS_RECORDER_DIR"]]
        assert [os.path.dirname(each) for each in directories] == ["/tmp", "/tmp"]
        assert [os.stat(each).st_mode & 0o777 for each in directories] == [0o700, 0o700]
        assert end(process) == 0
    assert [os.path.exists(each) for each in directories] == [False, False]
    assert list(deep.iterdir()) == []


def test_without_http(cli: Cli) -> None:
    ran = cli.run("run", "--http", "off", "--", *SUPERVISED, "environment")
    assert "TIMERS_FILE=" in ran.stdout
    assert "TIMERS_HTTP" not in ran.stdout


def test_the_launchers_own_timer_server_is_turned_off(cli: Cli, tmp_path: Path) -> None:
    ran = cli.run(
        "run", *FREE, "--events", "-", "--", *SUPERVISED, "environment",
        env={"TORCHELASTIC_ENABLE_FILE_TIMER": "1", "TIMERS_ON_ERROR": "raise"},
    )  # fmt: skip
    assert "TORCHELASTIC_TIMER_FILE=" in ran.stdout
    assert "TORCHELASTIC_ENABLE_FILE_TIMER" not in ran.stdout
    assert "TIMERS_ON_ERROR=raise\n" in ran.stdout
    notices = [e for e in json_lines(ran.stderr.splitlines()) if e["event"] == "notice"]
    assert "TORCHELASTIC_ENABLE_FILE_TIMER" in notices[0]["message"]

    events = tmp_path / "events"
    ran = cli.run(
        "run", *FREE, "--events", events, "true", env={"TORCHELASTIC_ENABLE_FILE_TIMER": "1"}
    )
    assert "TORCHELASTIC_ENABLE_FILE_TIMER" in ran.stderr  # for the person who cannot see FILE


def test_a_stuck_worker_is_explained_and_reaped(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    command = (*SUPERVISED, "launcher")
    with cli.start("run", *FREE, "--events", events, "--", *command) as process:
        _, pid, code = words(process)
        assert int(code) == -signal.SIGKILL
        (launcher,) = [p for p in cli.processes() if _parent(p) == process.pid]
        address = _variable(launcher, "TIMERS_HTTP")
        # The launcher may see its worker's end a moment before the watchdog does.
        reaped = 'timers_reaps_total{outcome="killed",scope="stuck"} 1.0'
        eventually(lambda: reaped in get(address, "/metrics")[1], "the reap is counted")
        assert end(process) == 0
    lines = [line for line in read(events) if line.get("worker_pid") == int(pid)]
    assert [line["event"] for line in lines] == [
        "timer expired",
        "stack dumped",
        "kill worker process",
    ]
    assert all(line["rank"] == 3 for line in lines)
    assert "supervised.py" in lines[1]["frame"]
    assert "get_stuck" in lines[1]["frame"]
    last = read(events)[-1]
    assert last["event"] == "run finished"
    assert (last["acquires"], last["expirations"], last["reaps"]) == (1, 1, 1)
    cli.assert_nothing_left()


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def _variable(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/environ") as file:
        return next(
            entry.partition("=")[2]
            for entry in file.read().split("\0")
            if entry.startswith(f"{name}=")
        )


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_requests_to_end_are_passed_on(cli: Cli, name: str) -> None:
    with cli.start("run", *FREE, "--", *SUPERVISED, "catch") as process:
        assert words(process)[0] == "ready"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert words(process) == ["got", name]
        assert end(process) == 0
    cli.assert_nothing_left()


def test_every_other_signal_that_can_be_is_passed_on(cli: Cli) -> None:
    names = {number: number.name.removeprefix("SIG") for number in signal.Signals}
    ours = {signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM}
    stopping = {signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    with cli.start("run", *FREE, "--", *SUPERVISED, "catch") as process:
        assert words(process)[0] == "ready"
        for number in sorted(signal.valid_signals() - ours - stopping):
            process.send_signal(number)
            assert words(process) == ["got", str(names.get(number, number))]
        assert end(process) == 0
    cli.assert_nothing_left()


def test_an_alarm_from_before_is_that_of_the_command(cli: Cli) -> None:
    # As "perl -e 'alarm 60; exec @ARGV' COMMAND" bounds the time of a command. One that comes while
    # either of them still starts ends that, as it would end any program.
    for seconds in (1, 4, 16, 64):
        alarm = partial(signal.setitimer, signal.ITIMER_REAL, seconds)
        with cli.start("run", *FREE, "--", *SUPERVISED, "catch", preexec_fn=alarm) as process:
            if words(process)[:1] == ["ready"]:
                assert words(process) == ["got", "ALRM"]
                assert end(process) == 0
                return
            assert process.wait(60) in {-signal.SIGALRM, 128 + signal.SIGALRM}
    pytest.fail("it never started in time")


def test_its_own_limit_of_processor_time_ends_neither(cli: Cli) -> None:
    with cli.start("run", *FREE, "--", *SUPERVISED, "catch", stderr=subprocess.PIPE) as process:
        assert words(process)[0] == "ready"
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (0, hard))
        assert process.stderr is not None
        assert "events go to" in process.stderr.readline()
        while not select.select([process.stderr], [], [], 0.001)[0]:
            process.send_signal(signal.SIGCHLD)  # keeps it busy, and says nothing to it
        assert "RLIMIT_CPU" in process.stderr.readline()
        process.send_signal(signal.SIGXCPU)
        assert words(process) == ["got", "XCPU"]
        assert end(process) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_end_ends_everything(cli: Cli, number: signal.Signals) -> None:
    with cli.start("run", *FREE, "--", *SUPERVISED, "unwatched") as process:
        assert words(process)[0] == "ready"
        process.send_signal(number)
        # A Python program dies of SIGINT itself, too: after its KeyboardInterrupt.
        assert process.wait(60) == 128 + number
    cli.assert_nothing_left()


def test_the_second_request_gives_the_command_its_grace(cli: Cli) -> None:
    with cli.start("run", *FREE, "--grace", "0.1", "--", *SUPERVISED, "ignore") as process:
        assert {words(process)[0] for _ in range(3)} == {"ready", "also"}
        _ask_until_dead(process, signal.SIGTERM)
        assert process.returncode == 128 + signal.SIGKILL
    cli.assert_nothing_left()


def test_the_third_request_does_not_wait(cli: Cli) -> None:
    with cli.start("run", *FREE, "--grace", "3600", "--", *SUPERVISED, "ignore") as process:
        assert {words(process)[0] for _ in range(3)} == {"ready", "also"}
        _ask_until_dead(process, signal.SIGINT)
        assert process.returncode == 128 + signal.SIGKILL
    cli.assert_nothing_left()


def _ask_until_dead(process: subprocess.Popen[str], number: int) -> None:
    """Like an impatient person: those in short succession count as one."""

    def dead() -> bool:
        process.send_signal(number)
        try:
            process.wait(0.25)
        except subprocess.TimeoutExpired:
            return False
        return True

    eventually(dead, "the command was killed")


def test_one_request_is_not_an_escalation(cli: Cli) -> None:
    with cli.start("run", *FREE, "--grace", "0", "--", *SUPERVISED, "catch") as process:
        assert words(process)[0] == "ready"
        process.send_signal(signal.SIGTERM)
        assert words(process) == ["got", "TERM"]
        process.send_signal(signal.SIGUSR1)
        assert words(process) == ["got", "USR1"]
        assert end(process) == 0


def test_sighup_opens_the_events_file_anew(cli: Cli, tmp_path: Path) -> None:
    events, rotated = tmp_path / "events", tmp_path / "events.1"
    command = (*SUPERVISED, "catch")
    with cli.start("run", *FREE, "--events", events, "--", *command) as process:
        assert words(process)[0] == "ready"
        eventually(lambda: events.stat().st_size > 0)
        events.rename(rotated)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        assert words(process) == ["got", "USR1"]  # and no HUP before it
        assert end(process) == 0
    assert [line["event"] for line in read(rotated)] == ["watchdog started"]
    assert [line["event"] for line in read(events)] == ["watchdog stopped", "run finished"]


def test_what_was_ignored_stays_ignored(cli: Cli) -> None:
    # As nohup(1) does it.
    with cli.start(
        "run", *FREE, "--", *SUPERVISED, "unwatched",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as process:  # fmt: skip
        assert words(process)[0] == "ready"
        process.send_signal(signal.SIGHUP)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert words(process) == ["ran"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM


def test_orphans_are_adopted_and_collected(cli: Cli) -> None:
    with cli.start("run", *FREE, "--", *SUPERVISED, "orphan") as process:
        _, orphan, parent = words(process)
        assert int(parent) == process.pid
        eventually(lambda: not os.path.exists(f"/proc/{orphan}"), "the zombie is collected")
        assert process.poll() is None
        assert end(process) == 0


def test_an_orphaned_worker_still_belongs_to_the_command(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events"
    command = (*SUPERVISED, "orphaned_worker")
    with cli.start("run", *FREE, "--events", events, "--", *command) as process:
        eventually(lambda: events.exists() and '"killed"' in events.read_text())
        assert end(process) == 0
    (killed,) = [line for line in read(events) if line["event"] == "kill worker process"]
    assert killed["scope_id"] == "orphaned"


def test_requests_for_others_are_refused(cli: Cli) -> None:
    with cli.start("run", *FREE, "--", *SUPERVISED, "environment") as process:
        found = environment(process)
        writer = FifoWriter(found["TIMERS_FILE"])
        line = {"version": 1, "pid": os.getpid(), "scope_id": "x", "expiration_time": 1}
        writer.write((str(line).replace("'", '"')[:-1] + ', "signal": 9}\n').encode())
        with subprocess.Popen(["sleep", "1000"]) as other:
            line["pid"] = other.pid
            writer.write((str(line).replace("'", '"')[:-1] + ', "signal": 9}\n').encode())
            refused = 'timers_requests_rejected_total{reason="outside_job"} 1.0'
            eventually(lambda: refused in get(found["TIMERS_HTTP"], "/metrics")[1])
            assert other.poll() is None
            other.kill()
        writer.close()
        assert end(process) == 0


def test_what_the_command_leaves_running_is_left_alone(cli: Cli) -> None:
    with cli.start("run", *FREE, "--", *SUPERVISED, "background") as process:
        _, left = words(process)
        assert process.wait(60) == 0
        assert int(left) in cli.processes()
        assert list(cli.temporary.iterdir()) == []


@pytest.mark.parametrize("stubborn", [False, True])
def test_what_the_command_leaves_running_ends_when_the_run_was_to_end(
    cli: Cli, stubborn: bool
) -> None:
    trap = "trap '' TERM;" if stubborn else ""
    # The signal reaches the shell alone; its children are left to us, and theirs in turn.
    script = f"(({trap} echo ready; sleep 1000; :); :) & echo also; sleep 1000; :"
    with cli.start("run", *FREE, "--grace", "0.2", "--", "sh", "-c", script) as process:
        assert {words(process)[0] for _ in range(2)} == {"ready", "also"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert cli.processes() == []
    cli.assert_nothing_left()


def test_the_command_survives_the_death_of_its_supervisor(cli: Cli) -> None:
    with cli.start("run", *FREE, "--", *SUPERVISED, "unwatched") as process:
        _, pid = words(process)
        assert process.stdin is not None
        for _ in range(2):
            process.stdin.write("\n")
            process.stdin.flush()
            assert words(process) == ["ran"]
            if process.poll() is None:
                process.kill()
                process.wait()
        assert int(pid) in cli.processes()


def test_an_explicit_port_that_is_taken_is_an_error(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for how in ({"TIMERS_HTTP": address}, {}):
            flags = [] if how else ["--http", address]
            ran = cli.run("run", *flags, "--", "touch", tmp_path / "started", env=how)
            assert ran.returncode == 2
            assert f"--http {address}" in ran.stderr
    assert not (tmp_path / "started").exists()
    cli.assert_nothing_left()


def bound(taken: socket.socket) -> bool:
    try:
        taken.bind(("127.0.0.1", 9464))
    except OSError:
        return False
    taken.listen()
    return True


def test_a_default_port_that_is_taken_is_replaced(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Whoever else has it may go away at any moment.
        eventually(lambda: bound(taken), "the port is ours")
        arguments = ("run", "--events", "-", "--", *SUPERVISED, "environment")
        with cli.start(*arguments, stderr=subprocess.PIPE) as process:
            address = environment(process)["TIMERS_HTTP"]
            assert address != "127.0.0.1:9464"
            assert get(address, "/-/ready")[0] == 200
            _, err = process.communicate("\n", timeout=60)
    (notice,) = [e for e in json_lines(err.splitlines()) if e["event"] == "notice"]
    assert "127.0.0.1:9464 is taken" in notice["message"]
    assert address in notice["message"]


def test_a_run_inside_a_run(cli: Cli) -> None:
    inner = [sys.executable, "-c", "from observability.cli.main import main; main()", "run", "--"]
    with cli.start("run", *FREE, "--run-id", "outer", *inner, *SUPERVISED, "environment") as run:
        found = environment(run)
        assert found["TIMERS_RUN_ID"] == "outer"
        (middle,) = [pid for pid in cli.processes() if _parent(pid) == run.pid]
        assert found["TIMERS_HTTP"] != _variable(middle, "TIMERS_HTTP")
        assert found["TIMERS_FILE"] != _variable(middle, "TIMERS_FILE")
        assert end(run) == 0
    cli.assert_nothing_left()


def test_events_do_not_mix_with_what_the_job_writes(cli: Cli) -> None:
    ran = cli.run("run", *FREE, "--run-id", "../job 7", "--", "sh", "-c", "echo oops >&2")
    said, own = ran.stderr.splitlines()
    assert own == "oops"
    (file,) = (cli.state / "timers").iterdir()
    assert said == f"timers: events go to {file}"
    assert file.name.startswith(".._job_7.")
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [line["event"] for line in read(file)][-1] == "run finished"


def test_of_the_files_that_nobody_named_the_newest_are_kept(cli: Cli) -> None:
    directory = cli.state / "timers"
    directory.mkdir(parents=True)
    for number in range(120):
        path = directory / f"{number}.jsonl"
        path.touch()
        os.utime(path, (number, number))
    (directory / "notes").touch()
    assert cli.run("run", *FREE, "--", "true").returncode == 0
    left = {path.name for path in directory.iterdir()}
    assert len(left) == 101
    assert {"notes", "119.jsonl"} <= left
    assert "20.jsonl" not in left


@pytest.mark.parametrize("state", ["/proc/no-such", "relative"])
def test_without_a_place_for_a_file_events_go_to_stderr(cli: Cli, state: str) -> None:
    ran = cli.run("run", *FREE, "--", "true", env={"XDG_STATE_HOME": state})
    assert json_lines(ran.stderr.splitlines())[-1]["event"] == "run finished"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-such-option", "true"], "no-such-option"),
        ([], "COMMAND"),
        (["--http", "nonsense:x", "true"], "must be a number from 0 to 65535"),
        (["--http", "::1:80", "true"], "brackets"),
        (["--http", "0.0.0.0:0", "true"], "--http-token-file"),
        (["--http", "192.0.2.1:0", "--http-insecure", "true"], "--http 192.0.2.1:0"),
        (["--grace", "-1", "true"], "--grace"),
        (["--dump-timeout", "nan", "true"], "--dump-timeout"),
        (["--max-interval", "0", "true"], "more than 0"),
        (["--level", "loud", "true"], "--level"),
        (["--events", "/no/such/directory/file", "true"], "--events"),
        (["--dump-dir", "/dev/null/x", "true"], "--dump-dir"),
        (["--timer-file", "/no/such/directory/pipe", "true"], "--timer-file"),
        (["--timer-file", "/dev/null", "true"], "not a named pipe"),
        (["--tls-key", "key.pem", "true"], "--tls-cert"),
        (["--tls-cert", "/no/such/file", "true"], "--tls-cert"),
        (["--http-token-file", "/dev/null", "true"], "token"),
    ],
)
def test_wrong_usage(cli: Cli, arguments: list[str], message: str) -> None:
    http = () if "--http" in arguments else FREE
    ran = cli.run("run", *http, *arguments)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert ran.stdout == ""
    cli.assert_nothing_left()


def test_options_from_the_environment(cli: Cli, tmp_path: Path) -> None:
    ran = cli.run(
        "run", "--", *SUPERVISED, "environment",
        env={
            "TIMERS_HTTP": "127.0.0.1:0",
            "TIMERS_EVENTS": str(tmp_path / "events"),
            "TIMERS_RUN_ID": "from-the-environment",
            "TIMERS_TIMER_FILE": str(tmp_path / "pipe"),
            "TIMERS_LEVEL": "warning",
            "TIMERS_INCLUDE": "run finished",
        },
    )  # fmt: skip
    assert ran.returncode == 0
    assert ran.stderr == ""
    assert f"TIMERS_FILE={tmp_path / 'pipe'}\n" in ran.stdout
    assert not (tmp_path / "pipe").exists()
    (line,) = read(tmp_path / "events")
    assert (line["event"], line["run_id"]) == ("run finished", "from-the-environment")


def test_a_wrong_value_in_the_environment_is_said_to_come_from_there(cli: Cli) -> None:
    ran = cli.run("run", *FREE, "true", env={"TIMERS_GRACE": "long"})
    assert ran.returncode == 2
    assert "TIMERS_GRACE" in ran.stderr


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RUN_ID", "JOBSET_NAME"])
def test_the_launchers_name_for_the_job(cli: Cli, variable: str) -> None:
    ran = cli.run("run", *FREE, "sh", "-c", "echo $TIMERS_RUN_ID", env={variable: "job-1"})
    assert ran.stdout == "job-1\n"
    made_up = cli.run("run", *FREE, "sh", "-c", "echo $TIMERS_RUN_ID").stdout
    assert len(made_up) > 10


def test_events_on_a_full_disk_cost_no_reap(cli: Cli) -> None:
    with cli.start(
        "run", *FREE, "--events", "/dev/full", "--", *SUPERVISED, "launcher",
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert words(process)[2] == str(-signal.SIGKILL)
        (launcher,) = [p for p in cli.processes() if _parent(p) == process.pid]
        address = _variable(launcher, "TIMERS_HTTP")
        # Started, expired, dumped, reported, killed.
        lost = 'timers_sink_errors_total{sink="log"} 5.0'
        eventually(lambda: lost in get(address, "/metrics")[1], "the five lost lines")
        _, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert "No space left on device" in err
    cli.assert_nothing_left()


def test_a_live_server_at_the_path_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    with cli.start("run", *FREE, "--timer-file", path, "--", *SUPERVISED, "environment") as first:
        environment(first)
        second = Cli(tmp_path / "second").run("run", *FREE, "--timer-file", path, "--", "true")
        assert second.returncode == 2
        assert "live timer server" in second.stderr
        assert path.is_fifo()
        assert end(first) == 0
    assert not path.exists()


def test_a_stale_pipe_is_taken_over(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    with cli.start("run", *FREE, "--timer-file", path, "--", *SUPERVISED, "unwatched") as process:
        words(process)
        process.kill()
    assert path.is_fifo()
    assert cli.run("run", *FREE, "--timer-file", path, "--", "true").returncode == 0
    assert not path.exists()
