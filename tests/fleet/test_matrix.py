"""Jobs on several nodes that hang, and what else may go wrong meanwhile: reaped on time, and said.

Minutes long: ``python -m tests.fleet`` runs it. One case is in ``tests/processes/test_fleet.py``.
"""

from __future__ import annotations

import os
import signal
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from support.network import network
from support.torch import require_torch
from support.torchrun_nodes import Nodes
from support.waiting import eventually

require_torch()

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        "TIMERS_FLEET_MATRIX" not in os.environ, reason="takes minutes: python -m tests.fleet"
    ),
]
BOUND = 5.0
"""Seconds, of --dump-timeout."""
SLACK = 4.0
"""For the rest of a reap, on a machine that is busy with several nodes."""
LONG = 120.0


def at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def assert_reaped_in_time(nodes: Nodes, node: int) -> None:
    """Each worker that expired there was killed within the bound."""
    expired = {each["worker_pid"]: at(each) for each in nodes.events(node, "timer expired")}
    killed = {each["worker_pid"]: at(each) for each in nodes.events(node, "kill worker process")}
    assert expired
    for pid, moment in expired.items():
        assert killed[pid] - moment < BOUND + SLACK


def wait_for_kill(nodes: Nodes, node: int) -> None:
    eventually(lambda: nodes.events(node, "kill worker process"), f"a kill on node {node}", LONG)


def watchdog_of(nodes: Nodes, node: int) -> psutil.Process:
    """The process of ``timers run`` on a node."""
    above = psutil.Process(nodes.processes[node].pid)
    return next(
        each for each in (above, *above.children(recursive=True)) if "run" in each.cmdline()[3:5]
    )


def agent_of(nodes: Nodes, node: int) -> psutil.Process:
    """The process of torchrun on a node."""
    children = watchdog_of(nodes, node).children()
    return next(each for each in children if "torch.distributed.run" in each.cmdline())


@pytest.mark.parametrize(
    ("count", "per_node", "culprit", "fetch_after"),
    [(2, 2, 3, 0.0), (4, 1, 2, 0.0), (2, 1, 1, 3.0)],
    ids=["two ranks a node", "four nodes", "with a deadline of its own"],
)
def test_the_right_rank_is_named_on_every_node_before_the_first_kill(
    tmp_path: Path, count: int, per_node: int, culprit: int, fetch_after: float
) -> None:
    with network(count) as net:
        nodes = Nodes(net, tmp_path, per_node=per_node)
        everywhere = range(count)
        with nodes.running(culprit=culprit, fetch_after=fetch_after):
            nodes.wait_until_joined(*everywhere)
            nodes.get_stuck()
            assert nodes.wait() == [0] * count
        kills = [each for node in everywhere for each in nodes.events(node, "kill worker process")]
        reports = [nodes.events(node, "hang report")[0] for node in everywhere]
    assert {report["sentence"] for report in reports} == {reports[0]["sentence"]}
    suspects = [suspect["rank"] for suspect in reports[0]["suspects"]]
    assert suspects == [culprit], reports[0]["sentence"]
    assert "fetch_shard" in reports[0]["suspects"][0]["frame"]
    assert max(map(at, reports)) < min(map(at, kills))
    assert [report["counts"] for report in reports].count(True) == 1
    assert all(f"rank {rank} finished" in "".join(map(nodes.output, everywhere)) for rank in (0, 1))


def test_a_node_that_is_cut_off_is_named_and_both_sides_are_reaped_in_time(tmp_path: Path) -> None:
    with network(2) as net:
        nodes = Nodes(net, tmp_path)
        with nodes.running(culprit=1, step_after=6.0, fetch_after=6.0, restarts=0):
            nodes.wait_until_joined(0, 1)
            nodes.get_stuck()
            eventually(lambda: os.path.exists(f"{nodes.stuck}.once"), "it is stuck", LONG)
            net.cut_off(1)
            for node in (0, 1):
                wait_for_kill(nodes, node)
    for node in (0, 1):
        assert_reaped_in_time(nodes, node)
    [here], [there] = nodes.events(0, "hang report"), nodes.events(1, "hang report")
    assert "node1 (ranks 1) is silent" in here["unheard"]
    assert here["missing_ranks"] == [1]
    assert here["suspects"] == []  # nobody that is not known is accused
    assert there["unheard"]


def test_a_watchdog_that_is_stopped_is_named_and_holds_up_nothing(tmp_path: Path) -> None:
    with network(2) as net:
        nodes = Nodes(net, tmp_path)
        with nodes.running(culprit=1, restarts=0):
            nodes.wait_until_joined(0, 1)
            watchdog_of(nodes, 1).suspend()
            nodes.get_stuck()
            wait_for_kill(nodes, 0)
            watchdog_of(nodes, 1).resume()
    assert_reaped_in_time(nodes, 0)
    [report] = nodes.events(0, "hang report")
    assert "node1 (ranks 1) is silent" in report["unheard"]


def test_the_ranks_of_a_node_without_a_watchdog_are_said_to_be_unknown(tmp_path: Path) -> None:
    with network(2) as net:
        nodes = Nodes(net, tmp_path)
        with nodes.running(culprit=1, without_watchdog=(1,), restarts=0):
            nodes.wait_until_joined(0)
            nodes.get_stuck()
            wait_for_kill(nodes, 0)
    assert_reaped_in_time(nodes, 0)
    [report] = nodes.events(0, "hang report")
    assert (report["missing_ranks"], report["suspects"]) == ([1], [])


def test_a_store_that_stops_in_the_middle_holds_up_nothing(tmp_path: Path) -> None:
    with network(2) as net:
        nodes = Nodes(net, tmp_path)
        options = {"step_after": 6.0, "fetch_after": 6.0, "restarts": 0}
        with nodes.running(culprit=1, store_in_agent=True, **options):
            nodes.wait_until_joined(0, 1)
            agents = [agent_of(nodes, node) for node in (0, 1)]
            nodes.get_stuck()
            eventually(lambda: os.path.exists(f"{nodes.stuck}.once"), "it is stuck", LONG)
            for agent in agents:  # one of them serves the store
                agent.send_signal(signal.SIGSTOP)
            for node in (0, 1):
                wait_for_kill(nodes, node)
            for agent in agents:
                agent.send_signal(signal.SIGCONT)
    for node in (0, 1):
        assert_reaped_in_time(nodes, node)
        [report] = nodes.events(node, "hang report")
        assert report["unheard"]
