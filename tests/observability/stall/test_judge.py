"""Stuck, idle or moving, from made-up samples of jobs that show no progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hangs.simulated import IN_ALL_REDUCE, OUTER, looking
from observability.samples.types import Descendant, WorkerView
from observability.stall._judge import Finding, judge
from timers.events import WorkerInfo
from timers.stacks.take import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from observability.samples.types import Sample

LIB = "/usr/lib/python3.12"
OWN = Frame("fetch", "/job/data.py", 8)
IN_REQUEST = (
    Frame("SocketIO.readinto", f"{LIB}/socket.py", 720),
    Frame("HTTPResponse.begin", f"{LIB}/http/client.py", 331),
    OWN,
    *OUTER,
)
IN_EVENT_LOOP = (
    Frame("EpollSelector.select", f"{LIB}/selectors.py", 468),
    Frame("_run_once", f"{LIB}/asyncio/base_events.py", 1949),
    Frame("run_forever", f"{LIB}/asyncio/base_events.py", 641),
    Frame("start", "/usr/lib/python3/dist-packages/ipykernel/kernelapp.py", 739),
)
SERVING = (
    Frame("_PollLikeSelector.select", f"{LIB}/selectors.py", 415),
    Frame("BaseServer.serve_forever", f"{LIB}/socketserver.py", 235),
    *OUTER,
)
ACCEPTING = (Frame("socket.accept", f"{LIB}/socket.py", 295), *OUTER)
IDLE_IN_POOL = (
    Frame("Connection._recv", f"{LIB}/multiprocessing/connection.py", 395),
    Frame("SimpleQueue.get", f"{LIB}/multiprocessing/queues.py", 389),
    Frame("worker", f"{LIB}/multiprocessing/pool.py", 114),
    Frame("BaseProcess.run", f"{LIB}/multiprocessing/process.py", 108),
)
IN_MAP = (
    Frame("Condition.wait", f"{LIB}/threading.py", 355),
    Frame("Event.wait", f"{LIB}/threading.py", 655),
    Frame("ApplyResult.get", f"{LIB}/multiprocessing/pool.py", 768),
    Frame("Pool.map", f"{LIB}/multiprocessing/pool.py", 367),
    *OUTER,
)
SLEEPING = (OWN, *OUTER)
FOR_WORK = (
    Frame("Queue.get", f"{LIB}/multiprocessing/queues.py", 103),
    Frame("consume", "/job/pool.py", 3),
)


def samples(frames: Sequence[Frame], channel: str, state: str = "sleeping") -> tuple[Sample, ...]:
    return tuple(
        looking(1, frames, channel=channel, at=at, cpu=2.0, switches=9, state=state)
        for at in (0.0, 0.3, 0.6)
    )


def worker(
    frames: Sequence[Frame],
    channel: str = "futex_do_wait",
    *,
    rank: int | None = None,
    pid: int = 1,
    state: str = "sleeping",
    helpers: Sequence[Descendant] = (),
) -> WorkerView:
    return WorkerView(
        worker=WorkerInfo(pid=pid, rank=rank),
        samples=samples(frames, channel, state),
        descendants=tuple(helpers),
    )


def computing(rank: int | None = None) -> WorkerView:
    looks = [
        looking(1, SLEEPING, channel="0", state="running", active=True, at=at, cpu=2.0 + at)
        for at in (0.0, 0.3, 0.6)
    ]
    return WorkerView(worker=WorkerInfo(pid=1, rank=rank), samples=tuple(looks))


def helper(frames: Sequence[Frame], channel: str) -> Descendant:
    return Descendant(pid=7, parent=1, samples=samples(frames, channel))


SLEEP = "hrtimer_nanosleep"


@pytest.mark.parametrize(
    ("views", "awaited"),
    [
        pytest.param([worker(IN_REQUEST, "wait_woken")], False, id="a lone script in a request"),
        pytest.param(
            [worker(IN_ALL_REDUCE, rank=0), worker(SLEEPING, SLEEP, rank=1)],
            False,
            id="a rank that sleeps, and one that waits for it",
        ),
        pytest.param(
            [worker(IN_ALL_REDUCE, rank=0), worker(IN_ALL_REDUCE, rank=1)],
            False,
            id="all ranks in the same operation",
        ),
        pytest.param(
            [worker(SLEEPING, SLEEP), worker(SLEEPING, SLEEP)],
            True,
            id="processes that sleep, whose parent joins them",
        ),
        pytest.param(
            [worker(IN_MAP, helpers=[helper(SLEEPING, SLEEP), helper(IDLE_IN_POOL, "pipe_read")])],
            False,
            id="a pool of which one never comes back",
        ),
        pytest.param(
            [worker(SLEEPING, "io_schedule", state="uninterruptible")],
            False,
            id="storage that does not answer",
        ),
        pytest.param(
            [worker(IN_ALL_REDUCE, rank=0), worker(SLEEPING, state="stopped", rank=1)],
            False,
            id="a rank that is stopped",
        ),
    ],
)
def test_stuck(views: list[WorkerView], awaited: bool) -> None:
    assert judge(views, awaited=awaited) is Finding.STUCK


@pytest.mark.parametrize(
    ("views", "awaited"),
    [
        pytest.param([worker(IN_EVENT_LOOP, "ep_poll")], False, id="a notebook kernel"),
        pytest.param([worker(SERVING, "poll_schedule_timeout")], False, id="a server"),
        pytest.param([worker(ACCEPTING, "inet_csk_accept")], False, id="a socket that listens"),
        pytest.param([worker(SLEEPING, SLEEP)], False, id="a script that sleeps"),
        pytest.param(
            [worker(SLEEPING, SLEEP, rank=0), worker(SLEEPING, SLEEP, rank=1)],
            False,
            id="ranks that all sleep",
        ),
        pytest.param(
            [worker(IDLE_IN_POOL, "pipe_read"), worker(IDLE_IN_POOL, "futex_do_wait")],
            False,
            id="an idle pool",
        ),
        pytest.param(
            [worker(SLEEPING, SLEEP, helpers=[helper(IDLE_IN_POOL, "pipe_read")])],
            False,
            id="a script that sleeps beside its idle pool",
        ),
        pytest.param(
            [worker(FOR_WORK, "pipe_read"), worker(FOR_WORK, "pipe_read")],
            True,
            id="consumers without work, whose parent joins them",
        ),
        pytest.param(
            [worker(IN_EVENT_LOOP, "ep_poll", rank=0), worker(IN_ALL_REDUCE, rank=1)],
            False,
            id="a server of ranks between two requests",
        ),
        pytest.param([worker(SLEEPING, state="stopped")], False, id="a job that is stopped"),
        pytest.param([], False, id="nobody"),
    ],
)
def test_idle(views: list[WorkerView], awaited: bool) -> None:
    assert judge(views, awaited=awaited) is Finding.IDLE


def test_a_prompt_is_idle() -> None:
    prompt = worker((Frame("ask", "/job/ask.py", 3), *OUTER), "pipe_read")
    assert judge([prompt], awaited=False) is Finding.STUCK
    assert judge([prompt], awaited=False, at_input=[1]) is Finding.IDLE


def test_one_that_computes_is_at_work_whoever_waits_for_it() -> None:
    others = [worker(IN_ALL_REDUCE, rank=rank, pid=9 + rank) for rank in (1, 2, 3)]
    assert judge(others, awaited=False) is Finding.STUCK
    assert judge([computing(rank=0), *others], awaited=False) is Finding.MOVES
    helper = Descendant(pid=7, parent=1, samples=computing().samples)
    waiting = worker(
        (Frame("Popen.wait", f"{LIB}/subprocess.py", 1264), *OUTER), "do_wait", helpers=[helper]
    )
    assert judge([waiting], awaited=False) is Finding.MOVES
