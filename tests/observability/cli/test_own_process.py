"""What is changed in a process that does nothing but serve timers, and where its log goes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.children import same_path
from support.command import json_lines

if TYPE_CHECKING:
    from pathlib import Path

# What a service loads takes half a second: it is loaded once, and each script runs in a fork.
FORKS = """
import os, sys
import observability.cli._own_process
for name in sys.argv[1:]:
    if os.fork() == 0:
        said = os.open(f"{name}.said", os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv[1:] = [name]
        exec(open(name).read())
        sys.exit()
    assert os.wait()[1] == 0
"""
SCRIPT = """
import gc, json, resource, sys
from observability.cli._own_process import devote_process

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 256), hard))
devote_process()
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
print(json.dumps({
    "limits": [limits, (hard, hard)],
    "interval": sys.getswitchinterval(),
    "rare": gc.get_threshold()[0] * gc.get_threshold()[1] * gc.get_threshold()[2],
    "enabled": gc.isenabled(),
    "frozen": gc.get_freeze_count(),
}))
"""


def test_a_process_is_devoted_to_its_timers(said: Path) -> None:
    found = json.loads((said / "devoted.said").read_text())
    assert found["limits"][0] == found["limits"][1]
    assert 0 < found["interval"] <= 0.001
    assert found["rare"] >= 10_000_000
    assert found["enabled"]
    assert found["frozen"] > 0


LOGGING = """
import logging, sys
from observability.cli._own_process import log_to_stderr
log_to_stderr(as_json=sys.argv[1] == "json", run_id="run-1")
log = logging.getLogger("some.library")
log.info("not shown")
log.warning("it is %s", "so")
log.warning("two %s", 1, 2)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what each script said is in a file."""
    place: Path = tmp_path_factory.mktemp("said")
    scripts = {"devoted": SCRIPT, "json": LOGGING, "text": LOGGING}
    for name, script in scripts.items():
        (place / name).write_text(script)
    subprocess.run([sys.executable, "-c", FORKS, *scripts], cwd=place, env=same_path(), check=True)
    return place


def test_as_json(said: Path) -> None:
    warning, misused, failure = json_lines((said / "json.said").read_text().splitlines())
    assert warning["event"] == "log"
    assert warning["level"] == "warning"
    assert warning["logger"] == "some.library"
    assert warning["message"] == "it is so"
    assert warning["run_id"] == "run-1"
    assert "severity" not in warning
    assert misused["message"] == "two %s (1, 2)"
    assert failure["level"] == "error"
    assert "ZeroDivisionError" in failure["exception"]


def test_as_text(said: Path) -> None:
    lines = (said / "text.said").read_text().splitlines()
    assert "timers: it is so" in lines
    assert "timers: failed" in lines
    assert "ZeroDivisionError: division by zero" in lines


@pytest.mark.process
def test_a_stderr_that_nobody_reads_holds_up_nobody() -> None:
    script = LOGGING.replace(
        'log.info("not shown")', 'for _ in range(5000): log.warning("x" * 100)'
    )
    with subprocess.Popen(
        [sys.executable, "-c", f"{script}\nprint('done', flush=True)", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        assert process.wait(60) == 0
