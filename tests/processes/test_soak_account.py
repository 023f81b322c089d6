"""The account of a soak run can fail: whatever is doctored is named."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from soak.account import Row, compare, planned_figures, seen_figures, short_figures
from soak.events import EventFiles
from soak.growth import FEWEST, IDLE_RESIDENT_SLACK, POOL_SLACK, Growth, Sample, growth
from soak.journal import Account, Child, Journal, read_journals
from soak.plan import HANGS, KINDS, PAIRS, Episode, episodes, opening
from soak.run import Result
from soak.table import as_json, as_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Metrics = dict[str, dict[tuple[str, ...], float]]

WORKER, STUCK, CHILD, GHOST = 101, 102, 103, 104


class Evidence:
    """Of a small run in which nothing went wrong, until it is doctored."""

    def __init__(self) -> None:
        self.accounts = [
            Account(
                acquires=Counter(step=5),
                releases=Counter(step=5),
                left=Counter(step=4),
                rejected=Counter(empty=2),
                ghosts=[GHOST],
                children=[Child(CHILD, planned=3, seen=3)],
                pair="file",
                pid=WORKER,
                worker=1,
            ),
            Account(
                acquires=Counter(step=2, hang=1),
                releases=Counter(step=2),
                left=Counter(step=2),
                expirations=Counter(hang=1),
                reaped=("hang", "killed"),
                pair="socket",
                pid=STUCK,
                worker=2,
            ),
            Account(
                acquires=Counter(step=1), pair="file", pid=CHILD, worker=1, warnings=Counter(step=1)
            ),
        ]
        self.metrics: Metrics = {
            "timers_acquires_total": {("step",): 8, ("hang",): 1},
            "timers_releases_total": {("step",): 7, ("hang",): 0},
            "timers_scope_duration_seconds_count": {("step",): 6, ("hang",): 0},
            "timers_expirations_total": {("step",): 0, ("hang",): 1},
            "timers_reaps_total": {("killed", "hang"): 1, ("killed", "step"): 0},
            "timers_requests_rejected_total": {("empty",): 2, ("not_json",): 0},
            "timers_expiry_lateness_seconds_count": {(): 1},
            "timers_stack_dump_seconds_count": {("ok", "py-spy"): 1, ("ok", "pystack"): 0},
            "timers_hang_reports_total": {("suspect",): 1},
            "timers_events_dropped_total": {("log",): 0},
            "timers_sink_errors_total": {("log",): 0},
            "timers_active": {("step",): 0},
            "timers_overdue": {("step",): 0},
            "timers_workers": {(): 0},
        }
        self.events: list[dict[str, Any]] = [
            {"event": "notice", "message": "serves http://127.0.0.1:4711", "level": "info"},
            {"event": "timer expired", "worker_pid": STUCK, "scope_id": "hang"},
            {"event": "timer warning", "worker_pid": CHILD, "scope_id": "step"},
            {"event": "stack dumped", "worker_pid": WORKER, "expired": False},
            {"event": "stack dumped", "worker_pid": STUCK, "expired": True},
            {"event": "hang report"},
            {"event": "kill worker process", "worker_pid": STUCK, "outcome": "killed"},
            {"event": "worker exited", "worker_pid": WORKER, "exit_code": 0},
            {"event": "worker exited", "worker_pid": CHILD, "exit_code": 3},
            {"event": "worker exited", "worker_pid": GHOST},
            {"event": "request rejected", "reason": "empty", "suppressed": 1},
        ]
        self.ends = {
            WORKER: frozenset({0}),
            STUCK: frozenset({-9}),
            CHILD: frozenset({3}),
            GHOST: frozenset({0}),
        }

    def differences(self, directory: Path) -> list[str]:
        path = directory / "events.jsonl"
        path.write_text("".join(json.dumps(event) + "\n" for event in self.events))
        events = EventFiles(path)
        events.poll()
        events.close()
        rows = compare(
            planned_figures(self.accounts),
            seen_figures(self.metrics, events, self.accounts, self.ends),
            short_figures(self.accounts),
        )
        assert events.http_address == "127.0.0.1:4711"
        assert {row.what for row in rows if row.planned} >= {"acquires", "reaps", "lines rejected"}
        return [words for row in rows for words in row.differences]

    def count(self, name: str, labels: tuple[str, ...], by: int) -> Evidence:
        self.metrics[name][labels] = self.metrics[name].get(labels, 0) + by
        return self

    def drop(self, event: str, pid: int) -> Evidence:
        self.events = [
            each for each in self.events if (each["event"], each.get("worker_pid")) != (event, pid)
        ]
        return self

    def tell(self, event: str, **fields: object) -> Evidence:
        self.events.append({"event": event, **fields})
        return self


def test_nothing_doctored_nothing_found(tmp_path: Path) -> None:
    assert Evidence().differences(tmp_path) == []


_DOCTORED: dict[str, tuple[Callable[[Evidence], object], list[str]]] = {
    "one acquire too many": (
        lambda e: e.count("timers_acquires_total", ("step",), 1),
        ["acquires, step: planned 8, seen 9"],
    ),
    "one acquire lost": (
        lambda e: e.count("timers_acquires_total", ("hang",), -1),
        ["acquires, hang: planned 1, seen 0"],
    ),
    "a release counted in another scope": (
        lambda e: (
            e.count("timers_releases_total", ("step",), -1),
            e.count("timers_releases_total", ("other",), 1),
        ),
        ["releases, other: planned 0, seen 1", "releases, step: planned 7, seen 6"],
    ),
    "a block timed twice": (
        lambda e: e.count("timers_scope_duration_seconds_count", ("step",), 1),
        ["blocks timed, step: planned 6, seen 7"],
    ),
    "more blocks not timed than were told late": (
        lambda e: e.count("timers_scope_duration_seconds_count", ("step",), -5),
        ["blocks timed, step: planned 6, seen 1"],
    ),
    "a hang that nobody noticed": (
        lambda e: (
            e.count("timers_expirations_total", ("hang",), -1),
            e.drop("timer expired", STUCK),
        ),
        [
            "expirations, hang: planned 1, seen 0",
            "events: timer expired, hang: planned 1, seen 0",
        ],
    ),
    "a hang that was not reaped": (
        lambda e: (
            e.count("timers_reaps_total", ("killed", "hang"), -1),
            e.drop("kill worker process", STUCK),
        ),
        [
            "reaps, hang: killed: planned 1, seen 0",
            f"events: kill worker process, {STUCK}: killed: planned 1, seen 0",
        ],
    ),
    "reaped in another way": (
        lambda e: (
            e.count("timers_reaps_total", ("killed", "hang"), -1),
            e.count("timers_reaps_total", ("escalated", "hang"), 1),
        ),
        ["reaps, hang: escalated: planned 0, seen 1", "reaps, hang: killed: planned 1, seen 0"],
    ),
    "somebody else reaped": (
        lambda e: e.tell("kill worker process", worker_pid=WORKER, outcome="killed"),
        [f"events: kill worker process, {WORKER}: killed: planned 0, seen 1"],
    ),
    "an expiry told twice": (
        lambda e: e.tell("timer expired", worker_pid=STUCK, scope_id="hang"),
        ["events: timer expired, hang: planned 1, seen 2"],
    ),
    "an exit not told": (
        lambda e: e.drop("worker exited", CHILD),
        [f"events: worker exited, {CHILD}: planned 1, seen 0"],
    ),
    "the exit of a reaped one told as well": (
        lambda e: e.tell("worker exited", worker_pid=STUCK),
        [f"events: worker exited, {STUCK}: planned 0, seen 1"],
    ),
    "an exit status told wrongly": (
        lambda e: (
            e.drop("worker exited", CHILD),
            e.tell("worker exited", worker_pid=CHILD, exit_signal=9),
        ),
        [f"exit statuses told wrongly, process {CHILD}: -9: planned 0, seen 1"],
    ),
    "a child that ended otherwise": (
        lambda e: setattr(e.accounts[0].children[0], "seen", -9),
        [
            f"exits of forked children, child {CHILD} of worker 1: -9: planned 0, seen 1",
            f"exits of forked children, child {CHILD} of worker 1: 3: planned 1, seen 0",
        ],
    ),
    "no stack of who was reaped": (
        lambda e: e.drop("stack dumped", STUCK),
        [f"events: stack of the expired, {STUCK}: planned 1, seen 0"],
    ),
    "a warning lost": (
        lambda e: e.drop("timer warning", CHILD),
        ["events: timer warning, step: planned 1, seen 0"],
    ),
    "a bad line not counted": (
        lambda e: (
            e.count("timers_requests_rejected_total", ("empty",), -1),
            e.events.pop(),
        ),
        ["lines rejected, empty: planned 2, seen 1"],
    ),
    "a bad line counted for another reason": (
        lambda e: (
            e.count("timers_requests_rejected_total", ("empty",), -1),
            e.count("timers_requests_rejected_total", ("not_json",), 1),
            e.events.pop(),
        ),
        [
            "lines rejected, empty: planned 2, seen 1",
            "lines rejected, not_json: planned 0, seen 1",
        ],
    ),
    "more bad lines told than counted": (
        lambda e: e.tell("request rejected", reason="empty"),
        ["rejections told, beyond those counted, empty: planned 0, seen 1"],
    ),
    "an event dropped": (
        lambda e: e.count("timers_events_dropped_total", ("log",), 1),
        ["events dropped, log: planned 0, seen 1"],
    ),
    "a sink that raised": (
        lambda e: e.count("timers_sink_errors_total", ("log",), 1),
        ["errors of sinks, log: planned 0, seen 1"],
    ),
    "a timer left": (
        lambda e: e.count("timers_active", ("step",), 1),
        ["timers left, step: planned 0, seen 1"],
    ),
    "an active count that is negative": (
        lambda e: e.count("timers_active", ("step",), -1),
        ["timers left, step: planned 0, seen -1"],
    ),
    "a worker left": (
        lambda e: e.count("timers_workers", (), 1),
        ["workers left, : planned 0, seen 1"],
    ),
    "a reap that failed on the way": (
        lambda e: e.tell("reap failed", worker_pid=STUCK),
        ["events: reap failed, : planned 0, seen 1"],
    ),
    "a hang report not told": (
        lambda e: e.count("timers_hang_reports_total", ("suspect",), 1),
        ["hang reports counted, less those told, : planned 0, seen 1"],
    ),
}


@pytest.mark.parametrize("name", _DOCTORED)
def test_what_is_doctored_is_named(name: str, tmp_path: Path) -> None:
    doctor, expected = _DOCTORED[name]
    evidence = Evidence()
    doctor(evidence)
    assert sorted(evidence.differences(tmp_path)) == sorted(expected)


def test_durations_may_be_missing_of_socket_workers_alone(tmp_path: Path) -> None:
    evidence = Evidence()
    evidence.count("timers_scope_duration_seconds_count", ("step",), -2)
    assert evidence.differences(tmp_path) == []


def test_the_last_request_of_a_thread_that_was_killed_at_work_may_be_missing(
    tmp_path: Path,
) -> None:
    def missing(by: int) -> list[str]:
        evidence = Evidence()
        evidence.accounts[2].at_work, evidence.accounts[2].pair = "busy", "socket"
        evidence.accounts[2].entered("busy", 5)
        evidence.accounts[2].left_again("busy", 4)
        evidence.count("timers_acquires_total", ("busy",), 5 - by)
        evidence.count("timers_releases_total", ("busy",), 4)
        evidence.count("timers_scope_duration_seconds_count", ("busy",), 4)
        return evidence.differences(tmp_path)

    assert missing(0) == missing(1) == []
    assert missing(2) == ["acquires, busy: planned 5, seen 3"]
    assert missing(-1) == ["acquires, busy: planned 5, seen 6"]


# -- growth ---------------------------------------------------------------------------------------

MIB = 2**20


def samples(count: int = 8 * FEWEST, **grows: int) -> list[Sample]:
    """Of a busy service; ``grows`` says by how much each sample is above the one before."""
    return [
        Sample(
            float(number),
            50 * MIB + number * grows.get("resident", 0) + number % 3 * MIB,
            16 + number * grows.get("descriptors", 0) + number % 7,
            10 + number * grows.get("threads", 0) + number % 5,
            0.1 * number,
        )
        for number in range(count)
    ]


def unbounded(found: list[Sample], idle: list[Sample]) -> list[str]:
    return [each.what for each in growth(found, idle) if not each.is_bounded]


def test_a_service_that_only_fluctuates_does_not_grow() -> None:
    found = samples()
    assert len(growth(found, found[:1] * 2)) == 6
    assert unbounded(found, found[:1] * 2) == []


@pytest.mark.parametrize("what", ["resident", "descriptors", "threads"])
def test_a_slow_leak_is_growth(what: str) -> None:
    found = samples(**{what: MIB // 4 if what == "resident" else 1})
    assert unbounded(found, found[:1] * 2) == [f"{what}, busy"]


@pytest.mark.parametrize(("what", "by"), [("descriptors", 1), ("threads", POOL_SLACK + 1)])
def test_idle_what_came_to_stay_is_growth(what: str, by: int) -> None:
    found = samples()
    before = found[0]
    after = before._replace(**{what: getattr(before, what) + by})
    assert unbounded(found, [before, after]) == [f"{what}, idle"]


def test_idle_memory_is_judged_even_of_a_short_run() -> None:
    before = samples(1)[0]
    after = before._replace(resident=before.resident + IDLE_RESIDENT_SLACK + 1)
    assert unbounded(samples(3), [before, after]) == ["resident, idle"]


# -- what is shown of it --------------------------------------------------------------------------


def result(rows: list[Row], grown: list[Growth]) -> Result:
    return Result(
        pair="both",
        seed=9,
        seconds=60.0,
        stopped_early=False,
        kinds={"works": 3},
        visits={"/metrics": 2},
        rows=rows,
        growth=grown,
        cpu_share=0.25,
    )


def test_the_verdict_names_every_difference() -> None:
    rows = [
        Row("acquires", 8, 9, ("acquires, step: planned 8, seen 9",)),
        Row("releases", 7, 7),
        Row("blocks timed", 7, 5, short=3),
    ]
    found = result(rows, [Growth("threads, idle", 10, 14, 3), Growth("descriptors", 5, 5, 0)])
    text = as_text(found)
    assert "NOT exact, 2 differences:\n  acquires, step: planned 8, seen 9\n" in text
    assert text.endswith("\n  threads, idle grew from 10 to 14")
    shown = {line.split("  ")[0]: line for line in text.splitlines()}
    assert shown["acquires"].endswith("+1  !")
    assert shown["releases"].endswith("-")
    assert shown["blocks timed"].endswith("-2  (down to -3 allowed)")
    assert shown["threads, idle"].endswith("!")
    assert json.loads(as_json(found))["exact"] is False


def test_without_a_difference_it_is_exact() -> None:
    found = result([Row("acquires", 8, 8)], [Growth("resident", 50, 51, 8, "MiB")])
    assert as_text(found).endswith(
        "\nExact: everything was counted once, everybody ended as planned, nothing grew."
    )
    assert json.loads(as_json(found))["exact"] is True


# -- where it comes from --------------------------------------------------------------------------


def test_events_are_read_across_rotations_and_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = EventFiles(path)
    events.poll()
    assert events.names.total() == 0
    whole = json.dumps({"event": "timer expired", "worker_pid": 1, "scope_id": "x"}) + "\n"
    with open(path, "a") as writer:
        writer.write(whole + whole[:9])
        writer.flush()
        events.poll()
        assert events.expired == {"x": 1}
        events.move_away()
        writer.write(whole[9:])  # by one that has not heard of it yet
    path.write_text(whole)
    events.poll()
    assert events.expired == {"x": 3}
    assert [events.happened("timer expired", 1, "x") for _ in range(4)] == [True] * 3 + [False]
    events.close()


def test_a_line_of_the_event_file_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    events = EventFiles(tmp_path / "events.jsonl")
    events.path.write_text('{"event": "hang report"}\nno JSON\n')
    with pytest.raises(json.JSONDecodeError):
        events.poll()
    assert events.names == {"hang report": 1}
    events.close()


def test_the_last_account_of_each_process_counts(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), 7)
    account = Account(acquires=Counter(step=1), pair="socket")
    journal.write(account)
    account.entered("step", 2)
    account.reaped = ("step", "killed")
    account.children.append(Child(5, 0, 0))
    journal.write(account)
    assert read_journals(tmp_path) == [account]
    assert account.acquires == {"step": 3}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_plan_begins_with_one_of_everything(pair: str) -> None:
    first = list(itertools.islice(episodes(3, PAIRS[pair]), len(opening(PAIRS[pair]))))
    assert {(each.kind, each.pair) for each in first} == set(itertools.product(KINDS, PAIRS[pair]))
    assert {each.mode for each in first if each.kind == "hangs"} == set(HANGS)
    assert {each.signal for each in first} == {"KILL", "TERM", "deaf"}
    assert [each.number for each in first] == list(range(len(first)))


def test_a_plan_is_the_same_for_the_same_seed() -> None:
    def plan(seed: int) -> list[Episode]:
        return list(itertools.islice(episodes(seed, PAIRS["both"]), 200))

    assert plan(1) == plan(1) != plan(2)
    assert [Episode.from_json(each.as_json()) for each in plan(1)] == plan(1)
    assert {each.exit_status for each in plan(1)} == {0, 3, -9, -15}
