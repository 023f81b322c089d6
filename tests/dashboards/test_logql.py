"""The queries for Loki, by the grammar of LogQL: no Loki can be had, its grammar can."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from dashboards.build import HERE
from support.monitoring.grafana import refused_logql
from timers import events

BOARD = json.loads((HERE / "timers-reaps-in-the-logs.json").read_text())
VARIABLES = {
    "$__range": "6h",
    "$__auto": "1m",
    "$job": ".+",
    "$instance": ".*",
    "$run_id": "llm-.*",
    "$scope": "all_reduce|step",
}


def queries() -> list[str]:
    found = []
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            text: str = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            found.append(text)
    return found


@pytest.mark.timeout(600)
def test_every_query_is_logql() -> None:
    asked = queries()
    assert len(asked) > 10
    assert not [text for text in asked if "$" in text]
    broken = '{job="x"} | json | event=kill'
    *answers, refused = refused_logql([*asked, broken])
    assert refused, "the grammar accepts everything"
    assert {text: places for text, places in zip(asked, answers, strict=True) if places} == {}


def test_every_event_and_field_that_is_asked_for_exists() -> None:
    names = {
        each.name: each
        for each in vars(events).values()
        if isinstance(each, type) and issubclass(each, events.Event) and hasattr(each, "name")
    }
    text = "\n".join(queries())
    asked = {
        name for match in re.findall(r"event[=!~]+`([^`]+)`", text) for name in match.split("|")
    }
    assert asked
    assert asked <= set(names)


@pytest.mark.parametrize("title", ["Reaps, the latest first"])
def test_the_table_shows_rank_scope_and_frame(title: str) -> None:
    panel: dict[str, Any] = next(each for each in BOARD["panels"] if each["title"] == title)
    organize = panel["transformations"][-1]["options"]
    assert {"rank", "scope_id", "frame", "outcome"} <= set(organize["indexByName"])
