"""PyTorch's own clients, in processes of their own, served by our servers."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest

from support.torch import require_torch
from support.waiting import eventually

require_torch()

if TYPE_CHECKING:
    from interop.conftest import Forks


def test_acquires_and_releases_are_counted(forks: Forks) -> None:
    server = forks.file_server("ours")
    worker = forks.file_worker("torch")
    worker.do("pairs", "step", 200)
    worker.do("enter", 3600, "epoch")
    eventually(lambda: server.do("requests") == 401)
    assert server.do("timers") == [[worker.pid, "epoch"]]
    worker.do("leave")
    eventually(lambda: server.do("requests") == 402)
    assert server.do("timers") == []


def test_its_default_scope_arrives_as_it_is(forks: Forks) -> None:
    server = forks.file_server("ours")
    worker = forks.file_worker("torch")
    worker.do("enter", 3600, None)
    ((pid, scope),) = eventually(lambda: server.do("timers"))
    assert pid == worker.pid
    assert re.fullmatch(forks.default_scope("torch"), scope)


def test_a_scope_acquired_twice_is_released_once_as_torch_has_it(forks: Forks) -> None:
    server = forks.file_server("ours")
    worker = forks.file_worker("torch")
    worker.do("enter", 3600, "same")
    worker.do("enter", 3600, "same")
    eventually(lambda: server.do("requests") == 2)
    assert server.do("timers") == [[worker.pid, "same"]]
    worker.do("leave")
    eventually(lambda: server.do("requests") == 3)
    assert server.do("timers") == []


def test_a_stuck_worker_is_reaped_and_the_server_lives(forks: Forks) -> None:
    server = forks.file_server("ours")
    stuck, idle = forks.file_worker("torch"), forks.file_worker("torch")
    idle.do("enter", 3600, "idle")
    stuck.tell("stuck", 0.1, "stuck")
    assert forks.status(stuck) == -signal.SIGKILL
    eventually(lambda: server.do("reaps") == {"killed": 1})
    assert server.do("timers") == [[idle.pid, "idle"]]
    assert idle.alive


def test_exit_before_release_clears_the_timer(forks: Forks) -> None:
    server = forks.file_server("ours")
    worker = forks.file_worker("torch")
    worker.do("enter", 3600, "unfinished")
    eventually(lambda: server.do("timers") == [[worker.pid, "unfinished"]])
    worker.tell("exit")
    assert forks.status(worker) == 0
    eventually(lambda: server.do("timers") == [])
    assert server.do("reaps") == {}


def test_eight_processes_at_once(forks: Forks) -> None:
    server = forks.file_server("ours")
    workers = [forks.file_worker("torch") for _ in range(8)]
    for worker in workers:
        worker.tell("pairs", "step", 100)
    assert [worker.do("sent") for worker in workers] == [200] * 8
    eventually(lambda: server.do("requests") == 1600)
    assert server.do("timers") == []


@pytest.mark.parametrize("queue", ["Queue", "SimpleQueue"])
def test_a_queue_of_torchs_requests(forks: Forks, queue: str) -> None:
    server = forks.local_server("ours", queue)
    worker, stuck = forks.local_worker("torch"), forks.local_worker("torch")
    worker.do("pairs", "step", 100)
    worker.do("enter", 3600, "epoch")
    eventually(lambda: server.do("requests") == 201)
    assert server.do("timers") == [[worker.pid, "epoch"]]
    stuck.tell("stuck", 0.1, "stuck")
    assert forks.status(stuck) == -signal.SIGKILL
    eventually(lambda: server.do("reaps") == {"killed": 1})
    worker.tell("exit")
    assert forks.status(worker) == 0
    eventually(lambda: server.do("timers") == [])
