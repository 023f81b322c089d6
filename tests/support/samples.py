"""One of each event, with values a test can recognise."""

from __future__ import annotations

from timers.events import (
    Event,
    Outcome,
    ReapFailed,
    RequestRejected,
    StackDumped,
    TimerAcquired,
    TimerExpired,
    TimerInfo,
    TimerOverran,
    TimerReleased,
    WatchdogStarted,
    WatchdogStopped,
    WorkerExited,
    WorkerInfo,
    WorkerKilled,
)
from timers.linux.procfs import ProcessFacts
from timers.stacks.dump import Frame, StackDump, ThreadStack

__all__ = [
    "DUMP",
    "PARENT_ID",
    "SPAN_ID",
    "TIMER",
    "TRACE_ID",
    "WORKER",
    "all_events",
    "expired",
    "rejected",
    "stack_dumped",
]

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
SPAN_ID = "00f067aa0ba902b7"
WORKER = WorkerInfo(pid=4711, start_time=99, rank=3, local_rank=1, restart_count=2)
TIMER = TimerInfo(
    scope_id="all_reduce",
    expiration_time=1_700_000_060.5,
    after_seconds=60.0,
    signal=9,
    thread=4712,
    traceparent=f"00-{TRACE_ID}-{PARENT_ID}-01",
    span_id=SPAN_ID,
)
DUMP = StackDump(
    pid=4711,
    method="py-spy",
    seconds=0.008,
    facts=ProcessFacts(state="sleeping", wait_channel="futex_wait", open_files=12),
    threads=(
        ThreadStack(
            thread=4711,
            name="MainThread",
            frames=(Frame("wait", "/usr/lib/python3.11/threading.py", 320),),
        ),
        ThreadStack(
            thread=4712,
            name="loader",
            holds_gil=True,
            frames=(
                Frame("recv", "/opt/venv/lib/python3.11/site-packages/dist/pipe.py", 7),
                Frame("load_batch", "/home/user/train.py", 42),
                Frame("run", "/usr/lib/python3.11/threading.py", 980),
            ),
        ),
    ),
)


def expired(scope: str = "all_reduce") -> TimerExpired:
    timer = TimerInfo(scope_id=scope, expiration_time=1.0, after_seconds=60.0, signal=9)
    return TimerExpired(
        timestamp=1_700_000_060.75,
        run_id="run-1",
        worker=WORKER,
        timer=timer,
        elapsed_seconds=60.25,
        lateness_seconds=0.25,
    )


def rejected(detail: str) -> RequestRejected:
    return RequestRejected(timestamp=0.0, reason="not_json", detail=detail)


def stack_dumped(dump: StackDump = DUMP) -> StackDumped:
    return StackDumped(
        timestamp=1_700_000_060.75,
        run_id="run-1",
        worker=WORKER,
        timer=TIMER,
        elapsed_seconds=60.25,
        dump=dump,
    )


def all_events() -> list[Event]:
    """One of each class."""
    return [
        WatchdogStarted(timestamp=1.0, run_id="run-1", address="/tmp/x", max_interval_seconds=10.0),
        WatchdogStopped(timestamp=1.0, run_id="run-1", timers=((WORKER, TIMER, 2.0),)),
        TimerAcquired(timestamp=1.0, worker=WORKER, timer=TIMER),
        TimerReleased(timestamp=1.0, worker=WORKER, timer=TIMER, elapsed_seconds=0.5),
        expired(),
        stack_dumped(),
        WorkerKilled(
            timestamp=1.0,
            worker=WORKER,
            timer=TIMER,
            elapsed_seconds=60.5,
            signal=9,
            outcome=Outcome.KILLED,
            descendants=(5, 6),
        ),
        ReapFailed(
            timestamp=1.0,
            worker=WORKER,
            timer=TIMER,
            elapsed_seconds=60.5,
            signal=9,
            outcome=Outcome.STILL_ALIVE,
            attempt=2,
            retry_in_seconds=4.0,
        ),
        WorkerExited(timestamp=1.0, worker=WORKER, timers=((TIMER, 3.0),)),
        rejected("{"),
        TimerOverran(timestamp=1.0, worker=WORKER, timer=TIMER, elapsed_seconds=0.5),
    ]
