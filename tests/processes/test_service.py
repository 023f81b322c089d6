"""What a service tells over HTTP about real workers."""

from __future__ import annotations

import contextlib
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from support.command import get
from support.log_lines import read
from support.service import connect, running, worker
from support.waiting import eventually
from timers.server.reaper import ReapPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from observability.service import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as service:
        yield service


def timers_page(service: Service) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(get(str(service.address), "/timers")[1])
    return answer


def test_running_timers(service: Service) -> None:
    environment = {"RANK": "5", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2"}
    with worker(service, "inside", 60, **environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"ready {process.pid}\n"
        (timer,) = eventually(lambda: timers_page(service)["timers"])
        assert timer["worker_pid"] == process.pid
        assert timer["thread"] == process.pid
        assert (timer["rank"], timer["local_rank"], timer["restart_count"]) == (5, 1, 2)
        assert timer["scope_id"] == "inside"
        assert timer["after_seconds"] == pytest.approx(60)
        assert 0 <= timer["age_seconds"] < 60
        assert timer["age_seconds"] + timer["remaining_seconds"] == pytest.approx(60)
        assert timer["used_ratio"] == pytest.approx(timer["age_seconds"] / 60)
        assert not timer["expired"]
        page = timers_page(service)
        assert (page["workers"], page["active"]) == (1, 1)
        limited = json.loads(get(str(service.address), "/timers?limit=0")[1])
        assert (limited["active"], limited["timers"]) == (1, [])
        process.communicate("\n", timeout=60)
    eventually(lambda: timers_page(service)["active"] == 0)
    assert timers_page(service)["totals"]["releases"] == 1


def test_the_last_reaps_have_their_stacks(
    service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    with worker(service, "stuck", "all_reduce", RANK="1") as process:
        assert process.wait(60) == -signal.SIGKILL
        (reap,) = eventually(lambda: [r for r in timers_page(service)["reaps"] if "outcome" in r])
    assert reap["worker_pid"] == process.pid
    assert reap["rank"] == 1
    assert reap["scope_id"] == "all_reduce"
    assert reap["outcome"] == "killed"
    assert reap["stack_method"] == "py-spy"
    assert "get_stuck" in reap["stack"][0]["frames"][0]
    totals = timers_page(service)["totals"]
    assert (totals["expirations"], totals["reaps"]) == (1, 1)
    service.stop()
    # What is said is said in events, but for the one line to the worker's own stderr.
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("timers: rank 1 is reaped: stuck at ")


def test_an_observed_worker_is_not_killed(service: Service) -> None:
    with worker(service, "inside", 0.1, 0) as process:
        (seen,) = eventually(lambda: [r for r in timers_page(service)["reaps"] if "frame" in r])
        assert "outcome" not in seen
        (timer,) = timers_page(service)["timers"]
        assert timer["expired"]
        assert timer["remaining_seconds"] < 0
        assert process.poll() is None
        process.communicate("\n", timeout=60)
        assert process.returncode == 0


def test_a_reap_is_on_time_whatever_http_clients_do(service: Service, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(service)) for _ in range(200)]
        for client in idle[::2]:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"GET /metrics HTTP/1.1\r\n")
        process = stack.enter_context(worker(service, "stuck"))
        assert process.wait(60) == -signal.SIGKILL
    service.stop()
    (expired,) = [line for line in read(tmp_path / "events") if line["event"] == "timer expired"]
    assert expired["lateness_seconds"] < 2  # far below any time-out of HTTP


def test_no_time_for_a_stack(tmp_path: Path) -> None:
    policy = ReapPolicy(dump_timeout=0.0)
    with (
        running(tmp_path, policy, level="error") as service,
        worker(service, "stuck") as process,
    ):
        assert process.wait(60) == -signal.SIGKILL
        eventually(lambda: timers_page(service)["totals"]["reaps"] == 1)
    assert [line["event"] for line in read(tmp_path / "events")] == ["kill worker process"]
