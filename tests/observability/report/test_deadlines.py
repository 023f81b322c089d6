"""``timers report --deadlines``: durations in, deadlines out."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from hangs.simulated import looking, view
from observability.report._deadlines import Advice, ScopeAdvice
from observability.report.command import NOBODY, UNUSABLE, report
from support.hang_events import hang, released, write
from timers.server.statistics import WARM_UP_USES

if TYPE_CHECKING:
    from pathlib import Path


def uses(*seconds: float, scope: str = "step", after: float = 60.0, rank: int = 0) -> list[Any]:
    return [released(view(rank), scope, each, after=after) for each in seconds]


def one(lines: list[Any]) -> ScopeAdvice:
    [found] = advised(lines)
    return found


def advised(lines: list[Any]) -> list[ScopeAdvice]:
    advice = Advice()
    for line in lines:
        advice.take(line)
    return advice.scopes()


def test_the_first_uses_of_each_worker_are_its_warm_up() -> None:
    lines = [
        line
        for rank in range(4)
        for line in uses(40.0, 10.0, 2.0, *[1.0] * 98, 1.5, 1.4, rank=rank)
    ]
    advice = one(lines)
    assert (advice.count, advice.warm_up_count) == (400, 4 * WARM_UP_USES)
    assert (advice.p50_seconds, advice.p99_seconds, advice.max_seconds) == (1.0, 1.4, 1.5)
    assert advice.warm_up_max_seconds == 40.0
    assert advice.suggested_seconds == 5.0
    assert advice.warm_up_suggested_seconds is not None
    assert advice.warm_up_suggested_seconds >= 80.0
    assert "99th percentile" in advice.reasoning
    assert advice.warning is None


@pytest.mark.parametrize("seconds", [0.0, 0.0004, 0.3, 1.0, 7.0, 59.0, 300.0, 5000.0, 40_000.0])
def test_the_suggestion_is_above_what_was_seen_but_not_by_orders(seconds: float) -> None:
    advice = one(uses(*[seconds] * 200))
    assert advice.suggested_seconds >= max(1.0, 2 * seconds)
    assert advice.suggested_seconds <= max(1.0, 6 * seconds)
    assert advice.suggested_seconds == float(f"{advice.suggested_seconds:.2g}") or (
        advice.suggested_seconds % 60 == 0
    )


def test_few_uses_double_the_margin() -> None:
    many, few = one(uses(*[1.0] * 100)), one(uses(*[1.0] * 8))
    assert few.suggested_seconds >= 2 * many.suggested_seconds
    assert "only 5 were seen" in few.reasoning
    first = one(uses(1.0))
    assert (first.count, first.warm_up_count) == (0, 1)
    assert "warm-up" in first.reasoning
    assert first.warm_up_suggested_seconds is None


def test_near_misses_and_expirations_are_counted_and_warned_of() -> None:
    lines = uses(*[1.0] * 100, 8.5, 9.0, 10.5, after=10.0)
    advice = one(lines)
    assert advice.near_misses == 2
    assert advice.after_seconds == 10.0
    assert "too short" in (advice.warning or "")
    expired = one([*lines, *hang([view(1, looking(1001, ()))])])
    assert (advice.expirations, expired.expirations) == (0, 1)


def test_a_deadline_that_is_far_too_long_is_warned_of() -> None:
    advice = one(uses(*[1.0] * 100, after=1800.0))
    assert "1800 times the longest use" in (advice.warning or "")
    assert one(uses(*[1.0] * 100, after=30.0)).warning is None
    assert "little room" in (one(uses(*[1.0] * 100, after=1.3)).warning or "")


def test_blocks_that_an_exception_left_do_not_count() -> None:
    failed = released(view(0), "step", 50.0, error="ValueError")
    assert one([failed, *uses(*[1.0] * 50)]).max_seconds == 1.0


def summary(host: str, counts: list[int], **extra: Any) -> dict[str, Any]:
    histogram = {"bounds": [0.5, 1.0, 2.5], "counts": counts, "count": sum(counts)} | extra
    scope = {"scope_id": "step", "after_seconds": 60.0, "near_misses": 1, "steady": histogram}
    return {"event": "scope durations", "host": host, "scopes": [scope]}


def test_summaries_of_several_servers_add_up_and_a_later_one_replaces() -> None:
    early = summary("a", [5, 0, 0, 0], max_seconds=0.4)
    late = summary("a", [90, 8, 0, 0], max_seconds=0.9)
    other = summary("b", [100, 0, 2, 0], max_seconds=2.0)
    advice = one([early, late, other])
    assert advice.count == 200
    assert advice.near_misses == 2
    # Known only to lie between two bounds, and taken to lie evenly there.
    assert advice.p50_seconds == pytest.approx(0.5 * 100 / 190, rel=0.02)
    assert (advice.p99_seconds, advice.max_seconds) == (0.9, 2.0)  # none of the first was longer
    assert one([summary("a", [0, 0, 0, 50], max_seconds=9.0)]).max_seconds == 9.0
    assert one([summary("a", [0, 0, 0, 50])]).max_seconds == 2.5


def test_durations_between_two_bounds_are_interpolated() -> None:
    advice = one([summary("a", [0, 0, 100, 0], max_seconds=2.4)])
    assert advice.p50_seconds == pytest.approx(1.0 + (2.4 - 1.0) * 0.5)
    assert advice.p90_seconds == pytest.approx(1.0 + (2.4 - 1.0) * 0.9)
    assert one([summary("a", [0, 100, 0, 0], max_seconds=0.9)]).p50_seconds == pytest.approx(0.7)


# -- hangs ---------------------------------------------------------------------------------------


def test_a_use_that_exceeded_its_deadline_is_no_measure() -> None:
    advice = one(uses(*[1.0] * 100, 61.0, 3600.0, after=60.0))
    assert (advice.max_seconds, advice.count) == (1.0, 97)
    assert advice.suggested_seconds <= 4.0


def test_a_deadline_that_many_uses_exceed_is_too_short_and_not_a_hang() -> None:
    advice = one(uses(*[1.0] * 50, *[70.0] * 50, after=60.0))
    assert (advice.max_seconds, advice.count) == (70.0, 97)
    assert advice.suggested_seconds >= 140.0


def test_a_use_that_waited_for_a_hang_is_no_measure() -> None:
    lines = uses(*[1.0] * 100)
    moment = datetime.fromisoformat(lines[0]["timestamp"])

    def at(line: dict[str, Any], seconds: float) -> dict[str, Any]:
        return {**line, "timestamp": (moment + timedelta(seconds=seconds)).isoformat()}

    (expired, *_) = hang([view(1, looking(1001, ()))], at=moment.timestamp() + 100)
    (waited,) = uses(40.0)
    assert one([*lines, expired, at(waited, 110)]).max_seconds == 1.0
    # One that ended before, or began afterwards, has waited for nobody.
    assert one([*lines, at(waited, 99), expired]).max_seconds == 40.0
    assert one([*lines, expired, at(waited, 141)]).max_seconds == 40.0


def test_what_a_summary_has_beyond_the_deadline_is_no_measure() -> None:
    histogram = {"bounds": [0.5, 1.0, 100.0], "counts": [0, 97, 0, 3], "max_seconds": 3600.0}
    scope = {"scope_id": "step", "after_seconds": 60.0, "steady": histogram}
    advice = one([{"event": "scope durations", "scopes": [scope]}])
    assert (advice.count, advice.max_seconds) == (97, 1.0)
    histogram["counts"] = [0, 97, 3, 0]  # up to 100 s: those within the deadline may be real
    advice = one([{"event": "scope durations", "scopes": [scope]}])
    assert (advice.count, advice.max_seconds) == (100, 60.0)


def test_too_little_to_judge_by_is_said(tmp_path: Path) -> None:
    assert one(uses(*[1.0] * 8)).too_few
    assert not one(uses(*[1.0] * 100)).too_few
    said = "  too little was seen: 5 of at least 20 uses, so this is a guess"
    file = write(tmp_path / "events", uses(*[1.0] * 8))
    assert said in CliRunner().invoke(report, ["--deadlines", file]).stdout.splitlines()
    file = write(tmp_path / "events", uses(*[1.0] * 100))
    assert "guess" not in CliRunner().invoke(report, ["--deadlines", file]).stdout


@pytest.mark.parametrize(
    "histogram",
    [
        None,
        {},
        {"bounds": [1.0], "counts": [1]},
        {"bounds": ["x"], "counts": [1, 2]},
        {"bounds": [1.0], "counts": [None, 2]},
        {"bounds": 3, "counts": [1]},
    ],
)
def test_a_broken_summary_is_as_good_as_none(histogram: object) -> None:
    scopes = [{"scope_id": "step", "steady": histogram}, 3, {"scope_id": 4}]
    assert advised([{"event": "scope durations", "scopes": scopes}]) == []
    assert advised([{"event": "timer released", "elapsed_seconds": "x", "scope_id": "y"}]) == []


def test_exact_durations_are_preferred_to_their_summary() -> None:
    advice = one([*uses(*[0.7] * 50), summary("a", [0, 50, 0, 0])])
    assert (advice.count, advice.p50_seconds) == (47, 0.7)


def test_the_command_prints_each_scope_by_name(tmp_path: Path) -> None:
    lines = uses(*[0.2] * 50, scope="save") + uses(*[3.0] * 50, scope="load", after=7200.0)
    file = write(tmp_path / "events", lines)
    result = CliRunner().invoke(report, ["--deadlines", file])
    assert result.exit_code == NOBODY
    words = result.stdout.splitlines()
    warning = "after=7200 is 2400 times the longest use: a hang goes unnoticed for that long"
    assert (words[0], words[4]) == ("load", f"  warning: {warning}")
    assert "  suggested: after=10 (now 7200): 3 x the 99th percentile (3 s), rounded up" in words
    data = CliRunner().invoke(report, ["--deadlines", "--json", file])
    assert [each["scope_id"] for each in json.loads(data.stdout)["deadlines"]] == ["load", "save"]


def test_without_durations_the_command_says_how_to_get_them(tmp_path: Path) -> None:
    file = write(tmp_path / "events", [{"event": "notice"}])
    result = CliRunner().invoke(report, ["--deadlines", file])
    assert result.exit_code == UNUSABLE
    assert "timer released" in result.stderr
