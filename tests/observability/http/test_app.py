from __future__ import annotations

import base64
import http.client
import json
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import timers
from observability.http import _look
from support.command import get
from support.service import running, worker
from support.waiting import eventually
from timers import FileTimerClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from observability.samples.types import WorkerView
    from observability.service import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as service:
        yield service


def ask(service: Service, path: str, **headers: str) -> tuple[int, str, Any]:
    return get(str(service.address), path, headers)


def test_metrics_for_prometheus(service: Service) -> None:
    status, body, headers = ask(service, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert "# TYPE timers_acquires_total counter" in body


def test_metrics_for_openmetrics(service: Service) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    status, body, headers = ask(service, "/metrics", Accept=accept)
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


@pytest.mark.parametrize("path", ["/metrics", "/timers", "/-/healthy", "/-/ready"])
def test_head_and_wrong_methods(service: Service, path: str) -> None:
    assert service.address is not None
    connection = http.client.HTTPConnection(*service.address, timeout=30)
    connection.request("HEAD", path)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    connection.request("POST", path, body=b"x" * 100_000)
    answer = connection.getresponse()
    assert answer.status == 405
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}
    connection.close()


@pytest.mark.parametrize("path", ["/nothing", "/metrics/x", "/-/", "/%2e%2e/etc/passwd"])
def test_unknown_paths(service: Service, path: str) -> None:
    assert ask(service, path)[0] == 404


@pytest.mark.slow
def test_health_is_that_of_the_watchdog_loop(service: Service) -> None:
    assert ask(service, "/-/healthy")[0] == 200
    with service.server._watchdog.lock:  # the loop cannot get on
        status, body, _ = ask(service, "/-/healthy")
        assert status == 503
        assert "no progress" in body
    assert ask(service, "/-/healthy")[0] == 200


@pytest.mark.slow
def test_ready_until_it_stops_watching(service: Service) -> None:
    assert ask(service, "/-/ready")[0] == 200
    service.stop_watching()
    assert ask(service, "/-/ready")[0] == 503
    assert ask(service, "/-/healthy")[0] == 503


def test_timers_shows_what_the_workers_are_in(service: Service) -> None:
    # This very process, whose requests are refused: nobody reaps the server.
    client = FileTimerClient(service.server._file_path)
    with timers.expires(60, "refused", client):
        pass
    answer = json.loads(ask(service, "/timers")[1])
    assert answer["run_id"] == "run-1"
    assert answer["timers"] == []
    assert answer["totals"]["acquires"] == 0


@pytest.mark.parametrize("limit", ["x", "-1", "1e3", "10001", "\u0663"])
def test_a_bad_limit(service: Service, limit: str) -> None:
    status, body, _ = ask(service, f"/timers?limit={urllib.parse.quote(limit)}")
    assert status == 400
    assert "from 0 to 10000" in body


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:80", "x.localhost", "[::1]"])
def test_local_hosts(service: Service, host: str) -> None:
    assert ask(service, "/timers", Host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1:9464", ""])
def test_other_hosts_are_refused(service: Service, host: str) -> None:
    assert ask(service, "/timers", Host=host)[0] == 403
    assert ask(service, "/-/healthy", Host=host)[0] == 200


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("path", ["/metrics", "/timers", "/nothing"])
def test_with_a_token_nobody_else_gets_in(tmp_path: Path, path: str) -> None:
    with running(tmp_path, token="s3cret:ü") as service:
        for wrong in ("", "Bearer s3cret", "Bearer", "Basic !", "Basic " + "A" * 9, "Digest x"):
            status, _, headers = ask(service, path, Authorization=wrong)
            assert status == 401
            assert headers["WWW-Authenticate"].startswith("Basic ")
        assert ask(service, path)[0] == 401
        assert ask(service, path, Authorization=_basic("x", "s3cret"))[0] == 401
        found = 404 if path == "/nothing" else 200
        right = "Bearer s3cret:ü".encode().decode("latin-1")
        assert ask(service, path, Authorization=right)[0] == found
        assert ask(service, path, Authorization=_basic("any", "s3cret:ü"))[0] == found
        # With the token the name by which it is reached does not matter.
        assert ask(service, path, Authorization=right, Host="gpu-17:9464")[0] == found
        assert ask(service, "/-/healthy")[0] == 200
        assert ask(service, "/-/ready")[0] == 200


def look(service: Service, **headers: str) -> tuple[int, str]:
    assert service.address is not None
    connection = http.client.HTTPConnection(*service.address, timeout=60)
    connection.request("POST", "/look", headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def test_a_look_on_request_shows_where_workers_are_before_a_deadline(service: Service) -> None:
    assert look(service, **{"X-Timers-Look": "1"}) == (404, "no worker is known\n")
    with worker(service, "inside", 60) as process:
        assert process.stdout is not None
        process.stdout.readline()
        eventually(service.server.known_workers, "the worker")
        status, body = look(service, **{"X-Timers-Look": "1"})
        assert status == 200
        report = json.loads(body)
        assert report["workers"] == 1
        assert "supervised.py" in json.dumps(report["groups"])
        assert report["sentence"]
        assert process.poll() is None


def test_of_two_who_look_at_once_the_second_is_told_so(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def wait_and_look(*_: object, **__: object) -> tuple[list[WorkerView], None]:
        begun.set()
        assert may_end.wait(60)
        return [], None

    monkeypatch.setattr(_look, "sample_job", wait_and_look)
    header = {"X-Timers-Look": "1"}
    with worker(service, "inside", 60), ThreadPoolExecutor() as pool:
        eventually(service.server.known_workers, "the worker")
        first = pool.submit(look, service, **header)
        assert begun.wait(60)
        assert look(service, **header) == (429, "somebody looks already\n")
        may_end.set()
        assert first.result()[0] == 200
        assert look(service, **header)[0] == 200


def test_a_page_of_somebody_else_cannot_have_workers_looked_at(service: Service) -> None:
    assert look(service)[0] == 403
    assert look(service, **{"X-Timers-Look": "1", "Host": "evil.test"})[0] == 403
    assert ask(service, "/look")[0] == 405
