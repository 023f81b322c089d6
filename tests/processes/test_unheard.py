"""No reap goes unheard: the service waits for who scrapes it, and a command is given the report."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.command import SUPERVISED, Cli, get
from support.http import receiver
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

FREE = ("--http", "127.0.0.1:0")
# Says where the service is, waits for a line, and gets stuck.
JOB = ("sh", "-c", 'echo "$TIMERS_HTTP"; read go; exec "$@"', "sh", *SUPERVISED, "stuck")
NOTIFY = Path(__file__).resolve().parents[2] / "examples" / "notify"
PROMETHEUS = {"User-Agent": "Prometheus/3", "X-Prometheus-Scrape-Timeout-Seconds": "100"}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def reaps(address: str, headers: Mapping[str, str] | None = None) -> bool:
    _, text, _ = get(address, "/metrics", headers)
    return 'timers_reaps_total{outcome="killed",scope="stuck"} 1.0' in text


def say_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def test_the_service_stays_until_the_last_reap_was_scraped(cli: Cli) -> None:
    with cli.start("run", *FREE, "--", *JOB, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        address = process.stdout.readline().strip()
        assert not reaps(address, PROMETHEUS)
        say_go(process)
        while "stays for one more scrape, for at most" not in process.stderr.readline():
            pass
        assert process.poll() is None
        assert reaps(address, PROMETHEUS)
        assert process.wait(60) == 128 + signal.SIGKILL
    cli.assert_nothing_left()


def test_it_does_not_stay_for_a_scraper_that_is_gone(cli: Cli) -> None:
    with cli.start("run", *FREE, "--", *JOB, stderr=subprocess.PIPE) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        for _ in range(2):  # comes again at once: twice that is over at once, too
            reaps(address)
        say_go(process)
        assert process.wait(60) == 128 + signal.SIGKILL


def test_a_request_to_end_ends_it(cli: Cli) -> None:
    with cli.start("run", *FREE, "--", *JOB, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        address = process.stdout.readline().strip()
        reaps(address, PROMETHEUS)
        say_go(process)
        while "stays for one more scrape" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGKILL


def test_a_job_that_was_not_reaped_ends_at_once(cli: Cli) -> None:
    job = ("sh", "-c", 'echo "$TIMERS_HTTP"; read go')
    with cli.start("run", *FREE, "--", *job, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        reaps(process.stdout.readline().strip(), PROMETHEUS)
        say_go(process)
        assert process.wait(60) == 0
        assert "stays" not in process.stderr.read()


def test_a_command_is_given_the_report_even_when_the_job_ends_with_it(
    cli: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    hook = f"sleep 1; cat > {path}"
    ran = cli.run("run", *FREE, "--on-hang", hook, "--", *SUPERVISED, "stuck")
    assert ran.returncode == 128 + signal.SIGKILL
    report = json.loads(path.read_text())
    assert report["event"] == "hang report"
    assert "get_stuck" in report["message"]
    assert "timers report " in report["report"]


@pytest.mark.parametrize("script", ["slack.py", "alertmanager.py"])
def test_the_examples_post_what_happened(cli: Cli, script: str) -> None:
    with receiver() as posted:
        hook = shlex.join([sys.executable, str(NOTIFY / script)])
        where = {"SLACK_WEBHOOK_URL": f"{posted.address}/hook", "ALERTMANAGER_URL": posted.address}
        cli.run("run", *FREE, "--on-hang", hook, "--", *SUPERVISED, "stuck", env=where)
        (path, body), *_ = eventually(lambda: posted.requests, "what was posted")
    assert path == {"slack.py": "/hook", "alertmanager.py": "/api/v2/alerts"}[script]
    assert "get_stuck" in json.dumps(body)
