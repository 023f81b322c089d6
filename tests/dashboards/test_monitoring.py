"""A real Prometheus scrapes real services; what people look at is asked, evaluated and drawn."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dashboards.build import ALERTS, HERE, RECORDING
from support.monitoring import grafana, scenario, servers
from support.monitoring.queries import (
    Chosen,
    annotation_queries,
    panel_queries,
    variable_queries,
)
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.monitoring.scenario import Seen

FLEET, RUN = HERE / "timers-fleet.json", HERE / "timers-run.json"
EVENTFUL_RUN = "vision-3"
"""The run of the scenario in which everything happens that a panel can show."""
ALERTMANAGER = HERE.parent / "examples" / "prometheus" / "alertmanager.yml"

pytestmark = pytest.mark.timeout(600)


@dataclass
class Monitored:
    """What there is to see and who looks at it."""

    seen: Seen
    prometheus: servers.Prometheus
    notified: list[dict[str, Any]] = field(default_factory=list)
    """The alerts that somebody would have been woken by."""


@contextlib.contextmanager
def receiver(notified: list[dict[str, Any]]) -> Iterator[str]:
    """The one who is on call: an HTTP server that keeps what it is told."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            notified.extend(json.loads(body)["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def prometheus_config(seen: Seen, alertmanager: str) -> str:
    return f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ['{RECORDING}', '{ALERTS}']
alerting:
  alertmanagers:
    - static_configs: [{{targets: ['{alertmanager.removeprefix("http://")}']}}]
scrape_configs:
  - job_name: timers
    static_configs:
{seen.scrape_config()}"""


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    place: Path = tmp_path_factory.mktemp("monitored")
    notified: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(scenario.trouble(place))
        on_call = stack.enter_context(receiver(notified))
        config = place / "alertmanager.yml"
        config.write_text(ALERTMANAGER.read_text().replace("http://127.0.0.1:9095/", on_call))
        alertmanager = stack.enter_context(servers.alertmanager(config, place / "alerts"))
        config = place / "prometheus.yml"
        config.write_text(prometheus_config(seen, alertmanager))
        prometheus = stack.enter_context(servers.prometheus(config, place / "data"))
        leaving = f'up{{instance="{seen.leaving_host}:9464"}} == 1'
        eventually(lambda: prometheus.query(leaving), "the leaving service was scraped")
        seen.leave()
        yield Monitored(seen, prometheus, notified)


def unanswered(monitored: Monitored, path: Path, run_id: str = ".*") -> list[str]:
    """The panels whose queries bring nothing, or nothing but NaN."""

    def empty(expr: str) -> bool:
        answer = monitored.prometheus.query(expr)
        return not any(sample["value"][1] != "NaN" for sample in answer)

    asked = [*panel_queries(path, Chosen(run_id)), *annotation_queries(path, Chosen())]
    assert len(asked) > 20
    return [f"{each.panel}: {each.expr}" for each in asked if empty(each.expr)]


@pytest.mark.parametrize(("path", "run_id"), [(FLEET, ".*"), (RUN, EVENTFUL_RUN)])
def test_every_query_of_every_panel_returns_data(
    monitored: Monitored, path: Path, run_id: str
) -> None:
    left: list[str] = []

    def all_answered() -> bool:
        # Each reap is in the short windows for some seconds only: a panel has to be seen once.
        found = unanswered(monitored, path, run_id)
        left[:] = [each for each in left if each in found] if left else found
        return not left

    with contextlib.suppress(AssertionError):
        eventually(all_answered, timeout=120)
    assert left == []


@pytest.mark.parametrize("path", [FLEET, RUN])
def test_every_variable_offers_what_there_is(monitored: Monitored, path: Path) -> None:
    expected = {
        "job": {"timers"},
        "instance": {f"{host}:9464" for host in monitored.seen.services},
        "run_id": monitored.seen.run_ids,
        "scope": monitored.seen.scopes,
    }

    def offered() -> dict[str, set[str]]:
        return {
            name: set(monitored.prometheus.api(f"label/{label}/values", **{"match[]": series}))
            for name, series, label in variable_queries(path)
        }

    eventually(lambda: offered() == expected, "every service was scraped")


def test_every_rule_is_evaluated_and_every_alert_notices(monitored: Monitored) -> None:
    def rules() -> dict[str, dict[str, Any]]:
        groups = monitored.prometheus.api("rules")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def healthy() -> bool:
        return all(rule["health"] == "ok" for rule in rules().values())

    eventually(healthy, "all rules evaluated")
    recorded = [rule["name"] for rule in rules().values() if rule["type"] == "recording"]
    assert recorded
    for name in recorded:
        eventually(partial(monitored.prometheus.query, name), f"{name} recorded")
    expected = {
        rule["alert"]
        for group in yaml.safe_load(ALERTS.read_text())["groups"]
        for rule in group["rules"]
    }
    noticed: set[str] = set()

    def all_noticed() -> bool:
        noticed.update(
            name
            for name, rule in rules().items()
            if rule["type"] == "alerting" and rule["state"] in ("pending", "firing")
        )
        return noticed >= expected

    with contextlib.suppress(AssertionError):
        eventually(all_noticed, timeout=240)
    assert expected - noticed == set()


def test_a_reap_reaches_alertmanager_with_its_annotations_filled_in(monitored: Monitored) -> None:
    def reap() -> dict[str, Any] | None:
        for alert in monitored.notified:
            labels = alert["labels"]
            if (labels["alertname"], labels.get("outcome")) == ("TimersWorkerReaped", "escalated"):
                return alert
        return None

    alert = eventually(reap, "the notification", timeout=120)
    assert alert is not None
    assert alert["status"] == "firing"
    assert alert["labels"]["severity"] == "warning"
    annotations = alert["annotations"]
    # Who and where, from the last hang report of that service.
    assert re.fullmatch(rf"worker \d+ on .+ is .+ at \S+:\d+ \w+ \(run {EVENTFUL_RUN}\)",
                        annotations["summary"])  # fmt: skip
    assert annotations["page"] == "http://gpu-3:9464/"
    description = r"[1-9] worker\(s\) overran the deadline of train_step .* \(escalated\)\."
    assert re.match(description, annotations["description"])
    assert annotations["run_id"] == EVENTFUL_RUN
    runbook = annotations["runbook_url"].rsplit("/", 1)[1]
    assert (HERE / "runbooks" / runbook).exists()
    assert "{{" not in json.dumps(annotations)


@pytest.mark.parametrize(("path", "run_id"), [(FLEET, ""), (RUN, EVENTFUL_RUN)])
def test_grafanas_panels_draw_every_panel(
    monitored: Monitored, tmp_path: Path, path: Path, run_id: str
) -> None:
    if run_id == EVENTFUL_RUN:
        what = 'timers_sink_errors_total{instance="gpu-3:9464"} > 0'
        eventually(lambda: monitored.prometheus.query(what), "everything has happened", timeout=60)
    picture = tmp_path / f"{path.stem}.png"
    drawn: dict[str, Any] = {}

    def complete() -> bool:
        # What happened only once may not be far enough from the right edge to be seen, and a scrape
        # may have taken more than its second.
        drawn.clear()
        drawn.update(
            grafana.draw(
                dashboard=str(path),
                prometheus=monitored.prometheus.address,
                picture=str(picture),
                **{"from": "now-2m", "to": "now"},
                scrape=1,
                interval="5s",
                variables={"var-run_id": run_id} if run_id else {},
            )
        )
        return all(
            not panel["complains"] and (panel["inked"] or panel["type"] != "timeseries")
            for panel in drawn["panels"]
        )

    with contextlib.suppress(AssertionError):
        eventually(complete, timeout=120)
    assert drawn["complaints"] == []
    assert {panel["id"]: panel["error"] for panel in drawn["panels"] if panel["error"]} == {}
    assert picture.stat().st_size > 50_000
    expected = [asked.panel.rsplit(" ", 1)[0] for asked in panel_queries(path, Chosen())]
    assert [panel["title"] for panel in drawn["panels"]] == list(dict.fromkeys(expected))
    for panel in drawn["panels"]:
        what = f"{panel['title']}: {panel['text']!r}"
        assert panel["state"] == "Done", what
        assert not panel["complains"], what
        if panel["type"] == "timeseries":
            assert panel["inked"], what
        elif panel["type"] == "table":
            assert panel["rows"] > 1, what
        else:
            assert any(each.isdecimal() for each in panel["text"].replace(panel["title"], "")), what
