from __future__ import annotations

import subprocess
import sys

from support.command import json_lines

_SCRIPT = """
import logging, sys
from observability.cli._process_logging import log_to_stderr
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


def _run(form: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", _SCRIPT, form], capture_output=True, text=True, check=True
    )
    return ran.stderr.splitlines()


def test_as_json() -> None:
    warning, misused, failure = json_lines(_run("json"))
    assert warning["event"] == "log"
    assert warning["level"] == "warning"
    assert warning["logger"] == "some.library"
    assert warning["message"] == "it is so"
    assert warning["run_id"] == "run-1"
    assert "severity" not in warning
    assert misused["message"] == "two %s (1, 2)"
    assert failure["level"] == "error"
    assert "ZeroDivisionError" in failure["exception"]


def test_as_text() -> None:
    lines = _run("text")
    assert "timers: it is so" in lines
    assert "timers: failed" in lines
    assert "ZeroDivisionError: division by zero" in lines


def test_a_stderr_that_nobody_reads_holds_up_nobody() -> None:
    script = _SCRIPT.replace(
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
