"""What a host hands over: grouped, bounded, read back as it was, and nothing else is read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hangs.simulated import IN_ALL_REDUCE, OUTER, looking, view
from observability.fleet._messages import MAX_SUMMARY, Presence, RefusedError, packed
from observability.fleet._reports import report_from, report_to
from observability.fleet._summary import Reader, Summary, to_text
from observability.hang import report as reports
from observability.hang.report import analyse
from observability.recorder.types import GroupRecord, Operation, Progress, Recording
from observability.samples.types import Descendant, Link, Sample, Surroundings, WorkerView
from observability.samples.worker import read
from timers.stacks.take import Frame, ThreadStack

if TYPE_CHECKING:
    from observability.samples.reading import Reading

HOST = Presence(host="node0", watchdog="w0", ranks=tuple(range(8)))
FETCHING = (Frame("fetch_shard", "/job/data.py", 88), *OUTER)
PENDING = Operation(number=26, name="all_reduce", sizes=((8,),), dtype="Float")


def from_text(text: str) -> Summary:
    return Reader().read(text)


def worker(rank: int, frames: tuple[Frame, ...] = IN_ALL_REDUCE, **more: Any) -> WorkerView:
    other = ThreadStack(frames=(Frame("beat", "/job/beat.py", 3),), thread=7000 + rank)
    looks = [
        looking(1000 + rank, frames, at=at, cpu=2.0 + rank, others=(other,)) for at in (0.0, 50.0)
    ]
    return replace(view(rank, *looks, host="node0"), **more)


def recorded(rank: int) -> Recording:
    done = replace(PENDING, number=25, progress=Progress.COMPLETED)
    calls = (done,) if rank == 3 else (done, PENDING)
    group = GroupRecord("default_pg", "gloo", ranks=tuple(range(8)), collectives=calls, last=25)
    return Recording(groups=(replace(group, last=calls[-1].number),))


def test_equal_stacks_and_recorders_travel_once() -> None:
    views = [
        worker(rank, FETCHING if rank == 3 else IN_ALL_REDUCE, recording=recorded(rank))
        for rank in range(8)
    ]
    text = to_text(HOST, views, 16)
    plain = json.loads(text)
    assert (len(plain["stacks"]), len(plain["recorders"]), len(plain["members"])) == (2, 2, 8)
    assert len(text) < 6000
    found = from_text(text)
    assert found.presence == HOST
    assert found.world_size == 16
    assert [each.worker.rank for each in found.views] == list(range(8))
    assert [each.worker.pid for each in found.views] == list(range(1000, 1008))
    assert found.views[3].recording == views[3].recording
    assert Reader().read(text) == found
    here, there = analyse(views, world_size=8), analyse(found.views, world_size=8)
    assert there.sentence == here.sentence
    assert [suspect.rank for suspect in there.suspects] == [3]


def test_a_place_that_workers_of_many_hosts_are_in_is_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = {rank: FETCHING if rank == 3 else IN_ALL_REDUCE for rank in range(16)}
    views = [worker(rank, frames, recording=recorded(rank)) for rank, frames in places.items()]
    other = replace(HOST, host="node1", watchdog="w1", ranks=tuple(range(8, 16)))
    reader = Reader()
    found = [
        *reader.read(to_text(HOST, views[:8], 16)).views,
        *reader.read(to_text(other, views[8:], 16)).views,
    ]
    readings: list[WorkerView] = []

    def counted(each: WorkerView) -> Reading:
        readings.append(each)
        return read(each)

    monkeypatch.setattr(reports, "read", counted)
    [suspect] = analyse(found, world_size=16).suspects
    assert (suspect.rank, suspect.pid) == (3, 1003)
    assert [each.worker.rank for each in readings] == [0, 3]


def test_the_thread_that_holds_the_timer_is_the_one_that_matters_there_too() -> None:
    busy = worker(1, thread=7001)
    [found] = from_text(to_text(HOST, [busy], None)).views
    assert found.dump is not None
    assert found.thread == found.dump.threads[0].thread
    assert found.dump.threads[0].frames[0].function == "beat"
    assert found.dump.thread() == found.dump.threads[1]  # the main thread is still known
    assert analyse([found]).sentence == analyse([busy]).sentence


def test_a_child_that_is_waited_for_is_named_by_its_own_pid() -> None:
    waiting = (Frame("wait", "/usr/lib/python3.12/subprocess.py", 1264), *OUTER)
    child = Descendant(
        pid=4711,
        parent=1002,
        samples=(Sample(dump=looking(4711, FETCHING).dump),),
        command="loader",
    )
    parent = worker(2, waiting, descendants=(child,))
    [found] = from_text(to_text(HOST, [parent], None)).views
    assert [(each.pid, each.command) for each in found.descendants] == [(4711, "loader")]
    assert analyse([found]).sentence == analyse([parent]).sentence


def test_who_has_ended_and_what_a_lock_is_held_by_are_kept() -> None:
    gone = WorkerView(worker=worker(4).worker, host="node0", gone="has exited", unclean=True)
    link = Link("the lock /data/.lock", (1005,), is_lock=True)
    locked = worker(6, surroundings=Surroundings(link=link))
    works = worker(7, surroundings=Surroundings(gpu=True, in_driver=False))
    found = from_text(to_text(HOST, [gone, locked, works], None)).views
    assert (found[0].gone, found[0].unclean, found[0].samples) == ("has exited", True, ())
    assert found[1].surroundings.link == link
    assert found[2].surroundings == works.surroundings


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, 1500])
def test_what_does_not_fit_is_left_out_from_the_outside_in(count: int) -> None:
    deep = [
        worker(rank, tuple(Frame(f"f{rank}_{n}" * 20, "/job/a.py", n) for n in range(70)))
        for rank in range(count)
    ]
    text = to_text(HOST, deep, None)
    assert len(text) <= MAX_SUMMARY
    found = from_text(text).views
    assert 8 <= len(found) <= 1024
    dump = found[0].dump
    assert dump is not None
    assert dump.threads[0].frames[0].function == "f0_0" * 20


def part(**changes: Any) -> str:
    plain = json.loads(to_text(HOST, [worker(0, recording=recorded(0))], 8))
    return packed(plain | changes)


MEMBER = {"rank": 0, "pid": 5, "stack": 0}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (part(host=""), "wrong_type"),
        (part(host="x" * 300), "too_long"),
        (part(ranks="0-1048575"), "out_of_range"),
        (part(ranks="5-3"), "out_of_range"),
        (part(ranks="-1"), "wrong_type"),
        (part(members=[{**MEMBER, "rank": 1 << 20}]), "out_of_range"),
        (part(members=[{**MEMBER, "rank": -1}]), "out_of_range"),
        (part(members=[{**MEMBER, "rank": True}]), "out_of_range"),
        (part(members=[{**MEMBER, "pid": None}]), "wrong_type"),
        (part(members=[{**MEMBER, "stack": 9}]), "out_of_range"),
        (part(members=[{**MEMBER, "recorder": 9}]), "out_of_range"),
        (part(members=[MEMBER] * 1025), "too_many"),
        (part(stacks=[1]), "wrong_type"),
        (part(recorders=[{"groups": [{"ranks": "0-999999,0-999999"}]}]), "out_of_range"),
        (part(recorders=[{"groups": [{"ranks": "0-999999"}]}] * 2), "out_of_range"),
        (" " * (MAX_SUMMARY + 1), "too_long"),
    ],
)
def test_what_goes_beyond_a_bound_is_refused(text: str, reason: str) -> None:
    with pytest.raises(RefusedError) as refused:
        from_text(text)
    assert refused.value.reason == reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)
NAMES = st.sampled_from(
    ["host", "watchdog", "ranks", "world_size", "stacks", "recorders", "members"]
)
FIELDS = st.sampled_from(["stack", "children", "around", "pace", "process_state", "stack_method"])


@pytest.mark.slow
@settings(max_examples=60)
@given(st.dictionaries(NAMES, JSON), st.dictionaries(FIELDS, JSON), st.booleans())
def test_any_text_is_a_summary_or_refused(
    changes: dict[str, Any], stack: dict[str, Any], whole: bool
) -> None:
    plain = json.loads(part(stacks=[stack]))
    text = packed(plain | changes if whole else plain)
    try:
        found = from_text(text)
    except RefusedError:
        return
    analyse(found.views)


@settings(max_examples=30)
@given(JSON)
def test_any_data_is_a_report_or_refused(data: Any) -> None:
    views = [worker(rank, FETCHING if rank == 3 else IN_ALL_REDUCE) for rank in range(4)]
    plain = report_to(analyse(views, world_size=8))
    for name in plain:
        try:
            report_from({**plain, name: data}).to_dict()
        except RefusedError:
            continue


def test_a_report_is_read_back_whole() -> None:
    views = [worker(rank, FETCHING if rank == 3 else IN_ALL_REDUCE) for rank in range(200)]
    report = replace(analyse(views, world_size=400), expired=())
    assert report_from(json.loads(json.dumps(report_to(report)))) == report


def test_what_drives_a_terminal_is_written_out_in_what_others_say() -> None:
    evil = worker(0, (Frame("\x1b[2Jgone", "/job/\u202ea.py", 1), *OUTER), scope_id="\x1b]0;x")
    [found] = from_text(to_text(HOST, [evil], None)).views
    report = report_from(report_to(analyse([found])))
    assert "\\x1b[2Jgone" in str(report.to_dict())
    assert "\x1b" not in f"{found.scope_id}{report.to_dict()}"
