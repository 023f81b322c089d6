"""Faults times promises: each scenario is played once, and each promise is a test of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from faults.promises import PROMISES
from faults.registry import FAULTS, table
from faults.stage import Stage

if TYPE_CHECKING:
    from faults.fault import Fault
    from faults.observation import Observation
    from faults.promises import Promise

TOP = Path(__file__).resolve().parent.parent.parent
SCENARIO_SECONDS = 300


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers of pytest-xdist share what they saw."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = shared / f"faults-{os.environ.get('PYTEST_XDIST_TESTRUNUID', 'alone')}"
    folder.mkdir(exist_ok=True)
    return folder


def observe(fault: Fault, results: Path) -> Observation:
    """What was seen of the fault's scenario, which the first who asks plays."""
    path = results / str(FAULTS.index(fault))
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            path.write_bytes(pickle.dumps(play(fault)))
    answer: Any = pickle.loads(path.read_bytes())
    if isinstance(answer, str):
        pytest.fail(f"the scenario could not be played:\n{answer}", pytrace=False)
    found: Observation = answer
    return found


def play(fault: Fault) -> Observation | str:
    # Short: the path of a socket has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        directory.chmod(0o755)  # for services of another user
        with contextlib.closing(Stage(directory)) as stage:
            try:
                return fault.play(stage)
            except Exception:  # noqa: BLE001  # for each of its tests
                return f"{traceback.format_exc()}\n{stage.said()}"
    finally:
        shutil.rmtree(directory)


@pytest.mark.timeout(SCENARIO_SECONDS)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_promise(fault: Fault, promise: Promise, results: Path) -> None:
    reason = fault.unavailable()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(f"CI has to show this, and cannot: {reason}")
        pytest.skip(reason)
    seen = observe(fault, results)
    weaker = fault.weaker.get(promise)
    (promise if weaker is None else weaker).check(seen)


def test_rows_have_names_of_their_own() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) > 0


def test_the_readme_has_the_matrix() -> None:
    readme = (TOP / "tests" / "README.md").read_text()
    section = re.split(r"^#+ Faults and promises$", readme, flags=re.MULTILINE)[1]
    section = re.split(r"^#", section, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines == table().splitlines(), "python -m tests.faults prints what belongs there"


def test_the_command_prints_the_matrix() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults"], cwd=TOP, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == table()
