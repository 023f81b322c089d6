"""The soak command itself: a short run is exact, and one that is meddled with is not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from soak.plan import KINDS
from support.processes import victim
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).resolve().parent.parent.parent
FIVE_MINUTES = pytest.mark.timeout(300)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, as paths of sockets must be."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@contextlib.contextmanager
def soaking(directory: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, whose temporary files are in ``directory``."""
    (directory / "tmp").mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.soak", "--workers", "4", *map(str, arguments)],
        cwd=TOP,
        env={**os.environ, "TMPDIR": str(directory / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:  # it ends what it has started
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=120)
                process.kill()


def figures(result: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {row["what"]: (row["planned"], row["seen"]) for row in result["rows"]}


@FIVE_MINUTES
def test_a_short_run_is_exact(place: Path) -> None:
    with soaking(place, "--minutes", 0.1, "--seed", 6, "--json") as process:
        out, err = process.communicate()
    result = json.loads(out)
    assert result["differences"] == [], "\n".join([err, *result["differences"]])
    assert process.returncode == 0
    assert result["exact"]
    assert not result["stopped_early"]
    assert set(result["kinds"]) == set(KINDS)
    assert min(result["visits"].values()) > 0
    found = figures(result)
    assert found["reaps"][1] > 8
    assert found["acquires"][1] > 10_000
    assert found["lines rejected"][1] > 50
    assert found["exits of workers"] == (sum(result["kinds"].values()),) * 2
    assert list((place / "tmp").iterdir()) == []


@FIVE_MINUTES
def test_a_run_that_is_stopped_gives_its_account(place: Path) -> None:
    with soaking(place, "--minutes", 60, "--seed", 7, "--pair", "file") as process:
        assert process.stderr
        assert process.stderr.readline().startswith("service: pid ")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    assert process.returncode == 0, out
    assert "pair file, seed 7, stopped early" in out
    assert "Exact: " in out
    assert list((place / "tmp").iterdir()) == []


def _settled(process: psutil.Process) -> str | None:
    status = process.status()
    return status if status in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE) else None


def ordinary_worker(run: int) -> psutil.Process | None:
    """A worker that was to exit by itself, stopped so that it does not."""
    for process in psutil.Process(run).children():
        with contextlib.suppress(psutil.Error):
            if any('"kind": "works"' in word for word in process.cmdline()):
                process.suspend()
                # One that has ended meanwhile is no use; one that is left stopped would stay.
                if eventually(partial(_settled, process)) == psutil.STATUS_STOPPED:
                    return process
    return None


@FIVE_MINUTES
def test_what_was_not_planned_is_found(place: Path) -> None:
    kept = place / "kept"
    with soaking(
        place, "--minutes", 60, "--seed", 8, "--pair", "file", "--keep", kept, "--json"
    ) as process:
        assert process.stderr
        assert process.stderr.readline().startswith("service: pid ")
        # One pair that no worker of the plan sent ...
        with victim("pairs", str(kept / "timers.pipe"), "1") as stranger:
            assert stranger.wait(60) == 0
        # ... and one worker killed that was to live.
        killed = eventually(lambda: ordinary_worker(process.pid), timeout=60)
        killed.kill()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out != "") == (1, True), err
    found = json.loads(out)["differences"]
    assert "acquires, scope 0: planned 0, seen 1" in found
    assert "releases, scope 0: planned 0, seen 1" in found
    assert f"events: worker exited, {stranger.pid}: planned 0, seen 1" in found
    unplanned = [words for words in found if words.startswith("exits of workers")]
    assert len(unplanned) == 2
    assert unplanned[0].endswith("(works, file): -9: planned 0, seen 1")
    assert unplanned[1].endswith("(works, file): 0: planned 1, seen 0")
    assert len(list(kept.glob("*.journal"))) > 0
