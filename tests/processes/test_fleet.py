"""A job on two nodes that hangs on one and waits on the other: one report on both, before any kill.

The rest of the matrix takes minutes: ``python -m tests.fleet``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from support.network import network
from support.torch import require_torch
from support.torchrun_nodes import TRAIN, Nodes

require_torch()

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]


def test_the_rank_that_is_stuck_on_another_node_is_named_on_both_before_the_first_kill(
    tmp_path: Path,
) -> None:
    with network(2) as two:
        nodes = Nodes(two, tmp_path)
        with nodes.running(culprit=1):
            nodes.wait_until_joined(0, 1)
            nodes.get_stuck()
            assert nodes.wait() == [0, 0]
        first_kill = min(each["timestamp"] for each in nodes.events(0, "kill worker process"))
        [here], [there] = nodes.events(0, "hang report"), nodes.events(1, "hang report")
    [suspect] = here["suspects"]
    assert (suspect["rank"], suspect["host"]) == (1, "node1")
    assert re.fullmatch(rf"{re.escape(str(TRAIN))}:\d+ fetch_shard", suspect["frame"])
    assert here["sentence"] == there["sentence"]
    assert max(here["timestamp"], there["timestamp"]) < first_kill
    assert [here["counts"], there["counts"]] == [False, True]  # once, where the suspect is
    assert here["run_id"] == there["run_id"] == "fleet-job"
    # Its own part in detail: the stuck rank has no timer, and its stack is in its node's events.
    [dumped] = nodes.events(1, "stack dumped")
    assert dumped["frame"] == suspect["frame"]
    assert [each["rank"] for each in nodes.events(0, "kill worker process")] == [0]
    assert nodes.events(1, "kill worker process") == []
    assert "rank 0 finished" in nodes.output(0)
    assert "rank 1 finished" in nodes.output(1)
