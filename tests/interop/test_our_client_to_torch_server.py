"""Our clients served by PyTorch's own servers, which run in processes of their own.

Its pipe server ends its own process after a reap; that exit is how a test sees the reap.
"""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from support.torch import require_torch
from support.waiting import eventually

require_torch()

if TYPE_CHECKING:
    from interop.conftest import Forks


def test_no_request_is_lost_in_a_burst_that_fills_the_pipe(forks: Forks) -> None:
    # torch's own client raises BlockingIOError here after 560 to 773 requests.
    server = forks.file_server("torch")
    worker = forks.file_worker("ours")
    worker.do("pairs", "step", 5000)
    assert worker.do("sent") == 10_000
    eventually(lambda: server.do("requests") == 10_000)
    assert server.do("timers") == []


def test_no_request_of_several_processes_is_lost(forks: Forks) -> None:
    server = forks.file_server("torch")
    workers = [forks.file_worker("ours") for _ in range(4)]
    for worker in workers:
        worker.tell("pairs", "step", 500)
    assert [worker.do("sent") for worker in workers] == [1000] * 4
    eventually(lambda: server.do("requests") == 4000)
    assert server.do("timers") == []


def test_default_scope_is_the_line_of_the_block(forks: Forks) -> None:
    server = forks.file_server("torch")
    worker = forks.file_worker("ours")
    worker.do("enter", 3600, None)
    ((pid, scope),) = eventually(lambda: server.do("timers"))
    assert pid == worker.pid
    assert re.fullmatch(forks.default_scope("ours"), scope)


def test_leaving_a_nested_block_leaves_the_outer_one_protected(forks: Forks) -> None:
    server = forks.file_server("torch")
    worker = forks.file_worker("ours")
    worker.do("enter", 3600, "same")
    worker.do("enter", 3600, "same")
    worker.do("leave")
    eventually(lambda: server.do("requests") == 3)
    assert server.do("timers") == [[worker.pid, "same"]]
    worker.do("leave")
    eventually(lambda: server.do("timers") == [])


def test_a_stuck_worker_is_reaped(forks: Forks) -> None:
    server = forks.file_server("torch")
    worker = forks.file_worker("ours")
    worker.tell("stuck", 0.1, "stuck")
    assert forks.status(worker) == -signal.SIGKILL
    assert forks.status(server) == -signal.SIGKILL


def test_an_idle_client_does_not_block_the_server(forks: Forks) -> None:
    # torch's server reads with readline(), which returns only when no writer is left.
    server = forks.file_server("torch")
    idle, stuck = forks.file_worker("ours"), forks.file_worker("ours")
    idle.do("pairs", "step", 10)
    idle.do("enter", 3600, "idle")
    eventually(lambda: server.do("timers") == [[idle.pid, "idle"]])
    assert idle.do("pipes", forks.path) == 0
    before = server.do("progress")  # in whole seconds
    eventually(lambda: server.do("progress") > before + 1)
    stuck.tell("stuck", 0.1, "stuck")
    assert forks.status(stuck) == -signal.SIGKILL
    assert forks.status(server) == -signal.SIGKILL
    assert idle.alive


def test_a_client_moves_to_whichever_server_is_there(forks: Forks) -> None:
    torchs = forks.file_server("torch")
    worker = forks.file_worker("ours")
    worker.do("pairs", "step", 10)
    eventually(lambda: torchs.do("requests") == 20)
    torchs.signal(signal.SIGKILL)
    assert forks.status(torchs) == -signal.SIGKILL
    ours = forks.file_server("ours")
    worker.do("pairs", "step", 10)
    eventually(lambda: ours.do("requests") == 20)
    assert worker.do("pipes", forks.path) == 1


def test_torchs_queue_server_takes_our_requests(forks: Forks) -> None:
    server = forks.local_server("torch")
    worker, stuck = forks.local_worker("ours"), forks.local_worker("ours")
    worker.do("pairs", "step", 100)
    worker.do("enter", 3600, "epoch")
    eventually(lambda: server.do("timers") == [[worker.pid, "epoch"]])
    stuck.tell("stuck", 0.1, "stuck")
    assert forks.status(stuck) == -signal.SIGKILL
    worker.do("leave")
    eventually(lambda: server.do("timers") == [])
    assert server.alive
