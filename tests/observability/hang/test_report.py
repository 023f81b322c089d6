"""The analysis on stacks in the shape of real ones: whom it names, and whom it must not."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hangs.simulated import IN_ALL_REDUCE, IN_BARRIER, OUTER, looking, view
from observability.hang.report import analyse
from observability.hang.text import render
from observability.hang.types import Confidence, HangReport, Node, Verdict
from observability.samples.reading import needs_more_samples
from observability.samples.types import Descendant, Pace, Sample, WorkerView
from timers.stacks.take import Frame, ThreadStack

LIBRARY = "/opt/venv/lib/python3.12/site-packages"
READING = (Frame("read_shard", "/job/data.py", 88), *OUTER)
SAVING = (Frame("write_part", "/job/checkpoint.py", 71), *OUTER[1:])
SENDING = (
    Frame("send", f"{LIBRARY}/torch/distributed/distributed_c10d.py", 2200),
    Frame("pipeline", "/job/pipe.py", 12),
    *OUTER,
)
SPINNING = (Frame("search", "/job/tokens.py", 9), *OUTER)


def waiting(rank: int, frames: tuple[Frame, ...] = IN_ALL_REDUCE, count: int = 2) -> WorkerView:
    samples = (looking(1000 + rank, frames, at=10.0 * at, cpu=5.0) for at in range(count))
    return view(rank, *samples)


def computing(rank: int, *places: tuple[Frame, ...], busy: float = 1.0) -> WorkerView:
    samples = (
        looking(
            1000 + rank, frames, state="running", channel=None, at=at, cpu=busy * at, active=True
        )
        for at, frames in enumerate(places)
    )
    return view(rank, *samples)


def sleeping(rank: int, count: int = 2, *, switches: int | None = None) -> WorkerView:
    frames = (Frame("pause", "/job/io.py", 31), *OUTER)
    samples = (
        looking(
            1000 + rank,
            frames,
            channel="hrtimer_nanosleep",
            at=10.0 * at,
            cpu=5.0,
            switches=None if switches is None else switches * at,
        )
        for at in range(count)
    )
    return view(rank, *samples)


def accused(report: HangReport) -> list[int | None]:
    return [suspect.rank for suspect in report.suspects]


# -- who is named --------------------------------------------------------------------------------


def test_the_rank_outside_of_the_collective_is_named_with_its_line() -> None:
    report = analyse([*(waiting(rank) for rank in (0, 1, 3)), sleeping(2)])
    assert report.verdict is Verdict.ONE_SUSPECT
    assert report.confidence is Confidence.HIGH
    [suspect] = report.suspects
    assert (suspect.rank, suspect.host, suspect.frame) == (2, "node0", "/job/io.py:31 pause")
    assert report.sentence == (
        "Rank 2 (pid 1002 on node0) is stuck: it sleeps at /job/io.py:31 pause while 3 ranks are "
        "waiting in all_reduce at /job/train.py:212 train_step."
    )


IN_BACKWARD = (
    Frame("_engine_run_backward", f"{LIBRARY}/torch/autograd/graph.py", 979),
    Frame("backward", f"{LIBRARY}/torch/_tensor.py", 623),
    *OUTER,
)


def expired(view: WorkerView, *, yes: bool) -> WorkerView:
    return dataclasses.replace(view, expired=yes)


def test_who_expired_is_named_when_the_other_waits_for_its_gradients() -> None:
    pair = [expired(waiting(0, IN_BACKWARD), yes=False), expired(waiting(1, READING), yes=True)]
    report = analyse(pair)
    assert report.verdict is Verdict.ONE_SUSPECT
    assert accused(report) == [1]
    assert report.confidence is not Confidence.HIGH


def test_a_backward_pass_that_expired_speaks_against_nobody() -> None:
    pair = [expired(waiting(0, IN_BACKWARD), yes=True), expired(waiting(1, READING), yes=False)]
    assert accused(analyse(pair)) == []
    both = [expired(waiting(0, IN_BACKWARD), yes=True), expired(waiting(1, READING), yes=True)]
    assert accused(analyse(both)) == []


@pytest.mark.parametrize("state", ["stopped", "traced", "zombie"])
def test_a_process_that_cannot_go_on_is_named_whatever_its_stack_says(state: str) -> None:
    broken = view(5, looking(1005, IN_ALL_REDUCE, state=state))
    report = analyse([broken, *(waiting(rank) for rank in range(5))])
    assert accused(report) == [5]
    assert report.suspects[0].frame == "/job/train.py:212 train_step" or state == "zombie"


def test_an_uninterruptible_rank_that_others_wait_for_is_named() -> None:
    stuck = view(
        1,
        *(
            looking(1001, READING, state="uninterruptible", channel="rpc_wait", at=t)
            for t in (0, 9)
        ),
    )
    report = analyse([waiting(0), stuck])
    assert accused(report) == [1]
    assert "uninterruptible" in report.sentence
    assert report.confidence is Confidence.HIGH


def test_several_stuck_ranks_are_all_named() -> None:
    report = analyse([*(waiting(rank) for rank in range(6)), sleeping(6), waiting(7, READING)])
    # The other one may be waiting for data from the one that sleeps.
    assert accused(report) == [6]
    report = analyse([*(waiting(rank) for rank in range(6)), sleeping(6), sleeping(7)])
    assert report.verdict is Verdict.SEVERAL_SUSPECTS
    assert accused(report) == [6, 7]


def test_the_stuck_child_of_a_rank_is_named() -> None:
    in_get = (
        Frame("_recv", "/usr/lib/python3.12/multiprocessing/connection.py", 395),
        Frame("get", "/usr/lib/python3.12/multiprocessing/queues.py", 103),
    )
    rank = waiting(1, (*in_get, Frame("next_batch", "/job/data.py", 50), *OUTER))
    worker_loop = (
        Frame("_worker_loop", f"{LIBRARY}/torch/utils/data/_utils/worker.py", 334),
        Frame("run", "/usr/lib/python3.12/multiprocessing/process.py", 108),
        Frame("_bootstrap", "/usr/lib/python3.12/multiprocessing/process.py", 314),
        *OUTER,
    )
    idle = Descendant(
        pid=70, parent=1001, samples=(looking(70, (*in_get, *worker_loop)),), command="loader"
    )
    stuck = Descendant(
        pid=71,
        parent=1001,
        samples=(looking(71, (Frame("decode", "/job/data.py", 9), *worker_loop)),),
        command="loader",
    )
    both = WorkerView(
        worker=rank.worker, host=rank.host, samples=rank.samples, descendants=(idle, stuck)
    )
    [suspect] = analyse([waiting(0), both]).suspects
    assert (suspect.rank, suspect.child_pid, suspect.frame) == (1, 71, "/job/data.py:9 decode")
    assert suspect.also == ("/job/data.py:50 next_batch",)
    only_idle = WorkerView(
        worker=rank.worker, host=rank.host, samples=rank.samples, descendants=(idle,)
    )
    [suspect] = analyse([waiting(0), only_idle]).suspects
    assert (suspect.child_pid, suspect.frame) == (None, "/job/data.py:50 next_batch")
    assert "child processes wait for work" in suspect.why


def test_the_thread_that_holds_the_timer_is_the_one_that_is_read() -> None:
    main = looking(
        1001,
        (Frame("join", "/usr/lib/python3.12/threading.py", 1), Frame("main", "/job/train.py", 5)),
        others=(
            ThreadStack(frames=READING, thread=7001, name="reader"),
            ThreadStack(frames=SAVING, thread=7002, name="saver"),
        ),
    )
    rank = view(1, main)
    chosen = WorkerView(worker=rank.worker, host=rank.host, samples=rank.samples, thread=7002)
    [suspect] = analyse([waiting(0), chosen]).suspects
    assert suspect.frame == "/job/checkpoint.py:71 write_part"
    [suspect] = analyse([waiting(0), rank]).suspects
    assert suspect.frame == "/job/data.py:88 read_shard"
    assert "/job/train.py:5 main" in suspect.also


def test_another_thread_that_keeps_the_gil_is_the_line_to_look_at() -> None:
    holder = ThreadStack(
        frames=(Frame("convert", "/job/native.py", 3),), thread=7001, holds_gil=True, active=True
    )
    samples = tuple(looking(1001, READING, at=at, cpu=4.0, others=(holder,)) for at in (0.0, 9.0))
    [suspect] = analyse([waiting(0), view(1, *samples)]).suspects
    assert suspect.frame == "/job/native.py:3 convert"
    assert "GIL" in suspect.why


def test_a_rank_that_ended_is_named_and_one_that_was_restarted_is_not() -> None:
    gone = view(3, gone="was killed by SIGKILL", unclean=True, pid=55)
    report = analyse([*(waiting(rank) for rank in range(3)), gone])
    assert accused(report) == [3]
    assert "was killed by SIGKILL" in report.sentence
    report = analyse([*(waiting(rank) for rank in range(4)), gone])
    assert accused(report) == []
    assert report.workers == 4


def test_a_single_worker_is_named_when_it_waits_for_nobody_else() -> None:
    assert accused(analyse([sleeping(0)])) == [0]
    assert accused(analyse([waiting(0)])) == []
    assert accused(analyse([waiting(0, READING)])) == []


# -- who is not ----------------------------------------------------------------------------------


def test_when_all_wait_in_one_place_what_they_wait_for_is_elsewhere() -> None:
    report = analyse([waiting(rank) for rank in range(8)])
    assert report.verdict is Verdict.COMMON_WAIT
    assert report.suspects == ()
    assert "not known here" in report.sentence


def test_the_rank_that_saves_a_checkpoint_moves_and_is_not_accused() -> None:
    saves = computing(0, READING, SAVING, SPINNING, SAVING, SAVING, SAVING)
    report = analyse([saves, *(waiting(rank) for rank in range(1, 8))])
    assert report.verdict is Verdict.SLOW
    assert report.suspects == ()
    assert [each.rank for each in report.lagging] == [0]


def test_one_that_computes_is_accused_only_after_enough_looks() -> None:
    others = [waiting(rank) for rank in range(1, 4)]
    few = analyse([computing(0, SPINNING, SPINNING), *others])
    assert (few.verdict, few.suspects) == (Verdict.INCONCLUSIVE, ())
    assert "rank 0" in few.sentence.lower()
    many = analyse([computing(0, *[SPINNING] * 12), *others])
    assert accused(many) == [0]
    assert many.suspects[0].pace is Pace.SPINNING
    idle = analyse([computing(0, *[SPINNING] * 12, busy=0.0), *others])
    assert idle.suspects == ()


def test_more_looks_are_asked_for_only_where_they_can_decide() -> None:
    assert needs_more_samples(computing(0, SPINNING).samples)
    assert needs_more_samples(computing(0, *[SPINNING] * 11).samples)
    assert not needs_more_samples(computing(0, *[SPINNING] * 12).samples)
    assert not needs_more_samples(computing(0, SPINNING, SAVING).samples)
    assert not needs_more_samples(waiting(0).samples)
    assert not needs_more_samples(waiting(0, count=1).samples)


def test_a_single_long_sleep_is_stuck_and_many_short_ones_are_not() -> None:
    others = [waiting(rank) for rank in range(3)]
    long = analyse([*others, sleeping(3, 3, switches=0)])
    assert accused(long) == [3]
    short = analyse([*others, sleeping(3, 3, switches=40)])
    assert (short.verdict, short.suspects) == (Verdict.SLOW, ())


def test_different_collectives_name_the_exception_but_not_one_of_two_halves() -> None:
    even = analyse([waiting(rank, IN_BARRIER if rank % 2 else IN_ALL_REDUCE) for rank in range(4)])
    assert (even.verdict, even.suspects) == (Verdict.DIFFERENT_COLLECTIVES, ())
    assert "all_reduce" in even.sentence
    assert "barrier" in even.sentence
    odd = [*(waiting(rank) for rank in range(3)), waiting(3, IN_BARRIER)]
    assert analyse(odd).verdict is Verdict.DIFFERENT_COLLECTIVES
    assert accused(analyse(odd)) == [3]
    # With ranks elsewhere, it may be in a group of its own with one of those.
    assert accused(analyse(odd, world_size=8)) == []
    assert analyse(odd, world_size=8).missing_ranks == (4, 5, 6, 7)


def test_ranks_of_a_pipeline_that_wait_for_each_other_are_not_told_apart() -> None:
    report = analyse([*(waiting(rank) for rank in range(3)), waiting(3, SENDING)])
    assert report.suspects == ()


def test_the_rank_that_got_ahead_of_the_others_is_not_the_culprit() -> None:
    slow_storage = [
        view(rank, looking(1000 + rank, READING, state="sleeping", channel="rpc_wait_bit_killable"))
        for rank in range(7)
    ]
    report = analyse([*slow_storage, waiting(7)])
    assert (report.verdict, report.suspects) == (Verdict.COMMON_WAIT, ())
    assert "storage" in report.reason


def test_a_disk_read_seen_for_a_moment_is_no_suspicion() -> None:
    reads = view(1, looking(1001, SAVING, state="uninterruptible", channel="folio_wait_bit"))
    report = analyse([waiting(0, READING), reads])
    assert report.suspects == ()


def test_two_workers_in_two_places_are_even() -> None:
    for frames in (READING, SAVING, SPINNING):
        report = analyse(
            [waiting(0, (Frame("poll", "/job/net.py", 4), *OUTER)), waiting(1, frames)]
        )
        assert (report.verdict, report.suspects) == (Verdict.INCONCLUSIVE, ())


def test_workers_that_finished_are_not_missed_by_one_that_hangs_alone() -> None:
    done = [view(rank, gone="exited with status 0") for rank in range(7)]
    report = analyse([*done, sleeping(7)])
    assert accused(report) == [7]


def test_one_that_nobody_can_be_compared_with_is_said_once() -> None:
    report = analyse([waiting(3)])
    assert report.sentence == (
        "Rank 3 (pid 1003 on node0) overran its deadline in scope 'step': it is waiting in "
        f"all_reduce at {report.groups[0].frame}; {report.reason}."
    )
    assert "no other worker" in report.reason


def test_a_job_that_is_suspended_as_a_whole_has_no_culprit() -> None:
    report = analyse(
        [view(rank, looking(1000 + rank, READING, state="stopped")) for rank in range(4)]
    )
    assert (report.verdict, report.suspects) == (Verdict.COMMON_WAIT, ())
    assert "suspended" in report.reason


def test_without_stacks_nobody_is_accused() -> None:
    blind = [view(rank, looking(1000 + rank, (), channel=None)) for rank in range(4)]
    report = analyse(blind)
    assert (report.verdict, report.suspects) == (Verdict.INCONCLUSIVE, ())
    assert "no stack" in report.reason
    assert analyse([]).verdict is Verdict.INCONCLUSIVE
    assert render(analyse([]))


def test_ranks_that_spin_together_at_a_device_are_waiting_for_the_one_that_does_not() -> None:
    together = [computing(rank, *[SPINNING] * 12) for rank in range(7)]
    assert accused(analyse([*together, sleeping(7)])) == [7]
    assert accused(analyse([*together, waiting(7, READING)])) == []
    assert accused(analyse(together)) == []


# -- what differs by accident --------------------------------------------------------------------


def test_install_prefixes_and_addresses_do_not_make_a_difference() -> None:
    elsewhere = tuple(
        Frame(frame.function, frame.file.replace("/job/", "/mnt/copy7/job/"), frame.line)
        for frame in IN_ALL_REDUCE
    )
    native = (
        Frame("__futex_abstimed_wait_common+0x7c", "/usr/lib/libc.so.6", 0),
        Frame("gloo::transport::tcp::UnboundBuffer::waitRecv(int*)", "libtorch_cpu.so", 0),
        *IN_ALL_REDUCE,
    )
    report = analyse([waiting(0), waiting(1, elsewhere), waiting(2, native)])
    assert report.verdict is Verdict.COMMON_WAIT
    assert [group.size for group in report.groups] == [3]


def test_the_lines_of_code_that_runs_are_noise() -> None:
    other_line = (Frame("search", "/job/tokens.py", 14), *OUTER)
    report = analyse([computing(0, SPINNING), computing(1, other_line)])
    assert [group.size for group in report.groups] == [2]


# -- how it is told ------------------------------------------------------------------------------


def test_the_tree_counts_who_is_in_each_call() -> None:
    report = analyse([*(waiting(rank) for rank in range(3)), sleeping(3)])
    [root] = report.tree
    assert root == Node(root.frame, 4, 1, root.children)
    assert root.frame == "/job/train.py:352 <module>"
    leaves = []
    nodes = [root]
    while nodes:
        node = nodes.pop()
        nodes += node.children
        if not node.children:
            leaves.append((node.frame, node.count, node.suspects))
    assert sorted(leaves) == [
        ("/job/io.py:31 pause", 1, 1),
        (IN_ALL_REDUCE[0].file + ":2810 all_reduce", 3, 0),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1_000, 16_000])
def test_large_runs_take_seconds_and_their_report_stays_short(size: int) -> None:
    views = [waiting(rank) for rank in range(size)]
    views[size // 3] = sleeping(size // 3)
    report = analyse(views)
    assert accused(report) == [size // 3]
    assert len(render(report).splitlines()) <= 40
    assert len(json.dumps(report.to_dict())) < 16_000


def test_a_run_in_which_each_rank_is_elsewhere_stays_short_too() -> None:
    views = [
        waiting(rank, (Frame(f"part_{rank}", "/job/parts.py", rank + 1), *OUTER), count=1)
        for rank in range(2_000)
    ]
    report = analyse(views)
    assert (report.verdict, report.suspects) == (Verdict.INCONCLUSIVE, ())
    assert len(report.groups) == 2_000
    assert len(render(report).splitlines()) <= 40
    assert "1992 workers in 1992 more places" in render(report)
    assert len(json.dumps(report.to_dict())) < 100_000


def test_the_report_is_plain_data_and_its_text_harmless() -> None:
    odd = (Frame("\x1b[2Jclear", "/job/\nnew.py", 3), *OUTER)
    views = [*(waiting(rank) for rank in range(3)), waiting(3, odd)]
    report = analyse(views)
    assert accused(report) == [3]
    data = json.loads(json.dumps(report.to_dict()))
    assert data["verdict"] == "one_suspect"
    assert data["suspects"][0]["rank"] == 3
    assert [group["count"] for group in data["groups"]] == [3, 1]
    assert data["tree"][0]["count"] == 4
    assert "tree" not in report.to_dict(tree=False)
    assert "\x1b" not in render(report)
    assert "\x1b" not in report.sentence


def test_looks_without_a_usable_stack_are_no_obstacle() -> None:
    broken = Sample(dump=looking(9, ()).dump)
    report = analyse([waiting(0), waiting(1), view(2, broken, *sleeping(2).samples)])
    assert accused(report) == [2]
