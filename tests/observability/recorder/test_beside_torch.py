"""torch's own analyser of Flight Recorder dumps beside ours, on the same dumps of NCCL."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from observability.hang.report import analyse
from observability.hang.text import render
from support import recorded
from support.torch import require_torch

if TYPE_CHECKING:
    from pathlib import Path

require_torch()

pytestmark = pytest.mark.slow  # it loads torch
CASES = ("skip", "mismatch", "kernel", "groups", "gil", "slow", "uneven")
ANALYSE = """
import sys
from torch.distributed.flight_recorder.fr_trace import main
for directory in sys.argv[1:]:
    print("==", flush=True)
    main([directory, "--prefix", "rank_"])
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What torch's analyser prints, by case."""
    top = tmp_path_factory.mktemp("dumps")
    for case in CASES:
        _write_dumps(top / case, case)
    ran = subprocess.run(
        [sys.executable, "-c", ANALYSE, *(str(top / case) for case in CASES)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # where it logs what it finds
        text=True,
        timeout=100,
        check=True,
    )
    return dict(zip(CASES, ran.stdout.split("==\n")[1:], strict=True))


def _write_dumps(directory: Path, case: str) -> None:
    """Write the dumps in the form of NCCL's pipes: what the pickle has and JSON leaves out."""
    directory.mkdir()
    for rank in range(4):
        dump: dict[str, Any] = json.loads(recorded.recorder_dump(case, rank))
        for entry in dump["entries"]:
            entry |= {"frames": [], "timeout_ms": 600_000, "record_id": entry["op_id"]}
        (directory / f"rank_{rank}").write_bytes(pickle.dumps(dump))


def ranks(pattern: str, text: str) -> set[int]:
    return {int(number) for found in re.findall(pattern, text) for number in found.split(", ")}


def ours(case: str) -> tuple[set[int | None], str]:
    report = analyse(recorded.views(case))
    return {each.rank for each in report.suspects}, render(report)


def missing(text: str) -> dict[tuple[str, int], set[int]]:
    """Who has not joined what, by group and number."""
    found = re.findall(r"number: (\d+)\n(?s:.*?)group info: (\S+)\n(?s:.*?)ranks: {(.*)}", text)
    return {(group, int(number)): ranks("(.+)", who) for number, group, who in found}


@pytest.mark.parametrize("case", ["skip", "gil"])
def test_both_name_the_rank_that_has_not_joined(said: dict[str, str], case: str) -> None:
    named, text = ours(case)
    assert missing(said[case]) == {("0:default_pg", 26): named}, text
    assert len(named) == 1


def test_torch_does_not_tell_slow_from_stuck(said: dict[str, str]) -> None:
    report = analyse(recorded.slow_views())
    assert missing(said["slow"]) == {("0:default_pg", 26): {each.rank for each in report.lagging}}
    assert report.suspects == ()


def test_ours_follows_the_wait_into_the_group_where_it_ends(said: dict[str, str]) -> None:
    """torch's lists each group alike, and takes the first entry that was kept for a gap."""
    found = missing(said["groups"])
    named, text = ours("groups")
    assert found[("2", 21)] == found[("0:default_pg", 26)] == named == {3}
    assert found[("0:default_pg", 23)] == {0, 1, 2}
    assert "has not joined all_reduce #21 of group 2" in text


def test_both_name_the_rank_that_called_something_else(said: dict[str, str]) -> None:
    named, text = ours("mismatch")
    assert ranks(r"Culprit rank (\d+)", said["mismatch"]) == named, text
    assert "SIZE_OR_SYNTAX_MISMATCH" in said["mismatch"]


def test_of_one_that_is_in_a_barrier_torch_blames_the_three_others(said: dict[str, str]) -> None:
    """It takes one of them for right, whoever they are; ours goes by what most called."""
    named, text = ours("uneven")
    assert named == {3}, text
    assert ranks(r"Culprit rank (\d+)", said["uneven"]) == {0, 1, 2}


def test_of_a_busy_stream_torch_blames_those_who_wait(said: dict[str, str]) -> None:
    """It compares all states with that of one rank; ours knows that who has started waits."""
    named, text = ours("kernel")
    assert named == {3}, text
    assert ranks(r"Culprit rank (\d+)", said["kernel"]) == {0, 1, 2}
    assert "COLLECTIVE_STATE_MISMATCH" in said["kernel"]
