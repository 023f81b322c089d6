"""A worker's children: its helpers end with it, and nobody else does."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from support.processes import victim
from support.waiting import eventually
from timers import ReapPolicy
from timers.debug_info_logging import log_debug_info_for_expired_timers
from timers.events import Outcome, ReapFailed, WorkerKilled
from timers.linux import procfs

if TYPE_CHECKING:
    from pathlib import Path

    from support.recording import Recorder
    from support.servers import FilePair

TREE = ReapPolicy(kill_tree="all", grace=0.3)
HELPERS = ReapPolicy(grace=0.3)


def running(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and found.state not in "ZX"


@pytest.mark.parametrize("policy", [HELPERS, TREE], ids=["by default", "all"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_none_of_its_helpers_is_left(
    number: int, policy: ReapPolicy, files: FilePair, recorder: Recorder
) -> None:
    files.server(observer=recorder, policy=policy)
    worker = files.worker(number)
    family = [*worker.do("family", 3), *worker.do("family", 1)]
    assert all(running(pid) for pid in family)
    worker.tell("stuck", "hang", 0.3)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.outcome is Outcome.KILLED
    assert set(killed.descendants) == set(family)
    eventually(lambda: not any(running(pid) for pid in family))


def test_when_that_is_off_its_children_are_its_own_affair(
    files: FilePair, recorder: Recorder
) -> None:
    files.server(observer=recorder, policy=ReapPolicy(kill_tree="off"))
    worker = files.worker()
    family = worker.do("family", 2)
    try:
        worker.tell("stuck", "hang", 0.3)
        killed = recorder.wait(WorkerKilled, worker.pid)
        assert worker.gone()
        assert killed.descendants == ()
        assert all(running(pid) for pid in family)
    finally:
        for pid in family:
            os.kill(pid, signal.SIGKILL)


def test_sockets_that_its_helpers_had_are_closed(files: FilePair, recorder: Recorder) -> None:
    # What a data loader keeps open after its worker keeps the next one from its port.
    files.server(observer=recorder)
    worker = files.worker()
    port = worker.do("listening_family")
    worker.tell("stuck", "hang", 0.3)
    recorder.wait(WorkerKilled, worker.pid)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
        again.listen()


@pytest.mark.parametrize(
    "environment",
    [{}, {"RANK": "0", "LOCAL_RANK": "0"}],
    ids=["without rank", "of rank 0"],
)
def test_whoever_is_no_helper_lives_on_with_its_own_helpers(
    environment: dict[str, str], files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    files.environment = environment
    worker = files.worker()
    helper = worker.do("start", {})
    others = {
        "another rank": worker.do("start", {"RANK": "1"}),
        "another local rank": worker.do("start", {"LOCAL_RANK": "1"}),
        "a daemon": worker.do("start", {}, True),
        "a worker": worker.do("fork"),
    }
    forked = files.accept()
    assert forked.pid == others["a worker"]
    forked.do("enter", "its own", 600)
    kept = forked.do("family", 1)
    eventually(lambda: len(server.known_workers()) == 1)
    try:
        worker.tell("stuck", "hang", 0.3)
        killed = recorder.wait(WorkerKilled, worker.pid)
        assert killed.descendants == (helper,)
        assert {who: running(pid) for who, pid in others.items()} == dict.fromkeys(others, True)
        assert all(running(pid) for pid in kept)
    finally:
        for pid in (*others.values(), *kept):
            os.kill(pid, signal.SIGKILL)


def test_what_it_starts_in_its_last_moments_is_found_too(
    files: FilePair, recorder: Recorder, tmp_path: Path
) -> None:
    files.server(observer=recorder, policy=TREE)
    worker = files.worker(signal.SIGTERM)
    path = tmp_path / "child"
    worker.do("fork_on", int(signal.SIGTERM), str(path))  # and does not end
    worker.tell("stuck", "hang", 0.3)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.outcome is Outcome.ESCALATED
    child = int(path.read_text())
    assert killed.descendants == (child,)
    eventually(lambda: not running(child))


def test_the_children_of_one_that_outlives_sigkill_are_not_left(
    files: FilePair, recorder: Recorder
) -> None:
    files.server(
        observer=recorder,
        policy=TREE,
        before_kill=partial(log_debug_info_for_expired_timers, timeout=0.5),
    )
    worker = files.worker()
    family = worker.do("family", 2)
    worker.do("allow_tracing")
    with victim("tracer", str(worker.pid)) as tracer:
        worker.tell("stuck", "hang", 0.3)
        recorder.wait(ReapFailed, worker.pid)
        eventually(lambda: not any(running(pid) for pid in family))
        tracer.kill()
        killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.outcome is Outcome.KILLED
    assert worker.gone()
