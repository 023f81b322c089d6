"""The dashboards as files: built from code, and by the conventions."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from dashboards.build import ALERTS, HERE, KUBERNETES, files, main

BOARDS = {path.stem: json.loads(path.read_text()) for path in HERE.glob("*.json")}
METRICS_BOARDS = ["timers-fleet", "timers-run"]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    opened = [each for panel in board["panels"] for each in (panel, *panel.get("panels", []))]
    return [panel for panel in opened if panel["type"] != "row"]


def every_panel() -> list[Any]:
    return [
        pytest.param(panel, id=f"{name}: {panel['title']}")
        for name, board in sorted(BOARDS.items())
        for panel in panels(board)
    ]


def test_what_is_committed_is_what_the_code_builds() -> None:
    stale = [path.name for path, text in files().items() if path.read_text() != text]
    assert not stale, "run: python -m dashboards.build"
    assert main(["--check"]) == 0


def test_three_dashboards_with_stable_uids() -> None:
    uids = {"timers-fleet", "timers-run", "timers-reaps-in-the-logs"}
    assert {board["uid"] for board in BOARDS.values()} == uids == set(BOARDS)


def test_runbooks_go_where_one_says() -> None:
    built = files("https://wiki.test/timers/")
    assert "runbook_url: https://wiki.test/timers/worker-reaped.md" in built[ALERTS]
    assert built[ALERTS].count("https://wiki.test/timers/") == ALERTS.read_text().count("alert:")


def test_links_go_where_one_says_and_need_no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grafana_foundation_sdk", None)
    built = files("https://wiki.test/timers/", "https://grafana.test/")
    assert set(built) == {ALERTS, KUBERNETES / "prometheusrule.yaml"}
    for text in built.values():
        assert "https://grafana.test/d/timers-run?var-run_id={{" in text
        assert "runbook_url: https://wiki.test/timers/worker-reaped.md" in text
        assert "example.com" not in text


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_dashboard(name: str) -> None:
    board = BOARDS[name]
    assert board["tags"] == ["timers"]
    assert board["title"].startswith("Timers: ")
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", "run_id", "scope"]
    assert variables["datasource"]["type"] == "datasource"
    ids = [each["id"] for panel in board["panels"] for each in (panel, *panel.get("panels", []))]
    assert len(ids) == len(set(ids))


def test_all_hosts_of_one_run_are_asked_for_by_name() -> None:
    hosts = {
        name: variable
        for name in METRICS_BOARDS
        for variable in BOARDS[name]["templating"]["list"]
        if variable["name"] == "instance"
    }
    assert hosts["timers-fleet"]["allValue"] == ".*"
    assert "allValue" not in hosts["timers-run"]
    assert 'run_id=~"$run_id"' in hosts["timers-run"]["query"]["query"]


@pytest.mark.parametrize("name", METRICS_BOARDS)
def test_annotations_for_reaps(name: str) -> None:
    (annotation,) = BOARDS[name]["annotations"]["list"]
    assert "timers_reaps_total" in annotation["target"]["expr"]
    assert annotation["enable"]


def test_no_data_source_is_named() -> None:
    def sources(node: object) -> list[str]:
        if isinstance(node, list):
            return [found for each in node for found in sources(each)]
        if not isinstance(node, dict):
            return []
        own = [node["datasource"]["uid"]] if node.get("datasource") else []
        return own + [found for each in node.values() for found in sources(each)]

    found = sources(list(BOARDS.values()))
    assert len(found) > 50
    assert set(found) == {"${datasource}"}


@pytest.mark.parametrize("panel", every_panel())
def test_a_panel(panel: dict[str, Any]) -> None:
    assert panel["title"]
    # What it shows, and what to do: two sentences at least.
    assert len(re.findall(r"[.:;]", panel["description"])) > 1, panel["description"]
    for runbook in re.findall(r"runbooks/([a-z-]+\.md)", panel["description"]):
        assert (HERE / "runbooks" / runbook).exists()
    if panel["type"] not in ("table", "logs"):  # a table has a unit for each column that needs one
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    reference = [target["refId"] for target in panel["targets"]]
    assert len(reference) == len(set(reference))


@pytest.mark.parametrize("panel", every_panel())
def test_windows_follow_the_zoom(panel: dict[str, Any]) -> None:
    windows = {
        window
        for target in panel["targets"]
        for window in re.findall(r"\[([^\]]+)\]", target["expr"])
        if not window.startswith("a-z")
    }
    # 1h: how far back a watchdog is looked for that no longer answers.
    assert windows <= {"$__rate_interval", "$__range", "$__auto", "1h"}


@pytest.mark.parametrize("name", METRICS_BOARDS)
def test_every_query_can_be_narrowed_down(name: str) -> None:
    for panel in panels(BOARDS[name]):
        for target in panel["targets"]:
            assert 'job=~"$job"' in target["expr"], panel["title"]
