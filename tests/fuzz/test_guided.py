"""A short run by coverage of each target, always the same one."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from fuzz import guided
from fuzz.command import fuzz_by_coverage, main

if TYPE_CHECKING:
    from pathlib import Path

RUNS = {"wire": 600, "pipe": 100, "socket": 60, "http": 60, "report": 100, "stacks": 200,
        "recorder": 100, "engine": 60}  # fmt: skip
"""More than the corpus has, and altogether less than ten seconds."""


@pytest.fixture(autouse=True)
def atheris() -> None:
    if not guided.is_installed():
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail(f"{guided.REASON} (in CI this must not be skipped)", pytrace=False)
        pytest.skip(guided.REASON)


@pytest.mark.parametrize("name", RUNS)
def test_by_coverage(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fine = fuzz_by_coverage(name, runs=RUNS[name], seconds=0, seed=1, findings=tmp_path)
    said = capfd.readouterr().out
    assert fine, said
    executed = re.search(r"stat::number_of_executed_units: (\d+)", said)
    assert executed is not None
    assert int(executed[1]) >= RUNS[name]  # one that is made while the last one runs is run as well
    assert list(tmp_path.iterdir()) == []


def test_what_fails_is_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Found first by whoever starts the target: a decoder that cannot read a byte.
    place = tmp_path / "place"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import timers.transport.wire\n"
        "def feed(self, data):\n"
        "    raise KeyError('broken on purpose')\n"
        "timers.transport.wire.Decoder.feed = feed\n"
    )
    monkeypatch.syspath_prepend(place)
    assert main(["wire", "--runs", "5", "--seed", "1", "--findings", str(tmp_path)]) == 1
    said = capfd.readouterr().out
    assert "broken on purpose" in said
    assert "failed: wire" in said
    assert list(tmp_path.glob("wire-crash-*"))
