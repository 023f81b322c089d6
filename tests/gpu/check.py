"""Hang NCCL jobs on one GPU, each in its own way, and check what the hang report says of each.

``python tests/gpu/check.py [CASE]...``, from the top of the tree: at most six minutes, a line for
each check, exit status 1 when one failed. Without a GPU, or without torch for it, it says why
nothing was checked and exits with 0.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
TIMERS = [sys.executable, "-m", "observability"]
BOUND_SECONDS = 350.0
"""Of the whole script, and a little more to write down what came of it."""
JOB_SECONDS = 110.0
AT_ONCE = 2
"""Jobs beside each other, of four ranks on the one card."""


@dataclass(frozen=True)
class Expected:
    """What is to be said of one case."""

    case: str
    ranks: tuple[int, ...]
    """Accused or, of a slow run, held up by."""
    verdicts: tuple[str, ...] = ("one_suspect",)
    frame: str = ""
    holds_up: str = ""
    options: tuple[str, ...] = ("--nccl-timing",)
    within: float = 1.0
    """Seconds from the first expiry to the report."""
    without_server: bool = False
    """Whether torch's worker server is left out, so that NCCL's pipes have to answer."""

    @property
    def title(self) -> str:
        """Its name."""
        extra = ", NCCL's pipes" if self.without_server else ""
        return self.case + extra + ("" if self.options else ", without timing")


CASES = (
    Expected("before_step", (2,), frame="fetch_shard", holds_up="has not joined all_reduce"),
    Expected(
        "mismatch", (1,), ("different_collectives",), holds_up="where ranks 0, 2-3 called"
    ),
    Expected("endless_kernel", (3,), holds_up="its GPU has not started it"),
    Expected("endless_kernel", (), ("common_wait",), options=()),
    Expected("gil", (1,), frame="hold_the_gil", holds_up="has not joined"),
    Expected("slow", (2,), ("slow",), frame="preprocess", holds_up="has not joined"),
    Expected("uneven_data", (3,), ("different_collectives",), frame="finish", holds_up="barrier"),
    Expected("two_groups", (3,), frame="fetch_shard", holds_up="of group 2"),
    Expected(
        "before_step", (2,), frame="fetch_shard", holds_up="has not joined all_reduce", within=2.5,
        without_server=True,
    ),
)  # fmt: skip


def why_not() -> str | None:
    """Say why nothing can be checked here; None when it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    # By name, so that a type checker needs neither PyTorch nor the minutes it takes to read it.
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return "there is no GPU that torch can use"
    if not torch.distributed.is_nccl_available():
        return "torch was built without NCCL"
    return None


def run(expected: Expected, until: float) -> tuple[list[str], str]:
    """Run one case; return what was wrong, and the report's sentence."""
    with tempfile.TemporaryDirectory(prefix="timers-gpu-") as directory:
        events = Path(directory) / "events.jsonl"
        command = [*TIMERS, "run", "--events", str(events), "--http", "off", *expected.options]
        command += ["--", *_without_server(expected), sys.executable, str(HERE / "job.py")]
        log = Path(directory) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, expected.case],
                cwd=TOP,
                env={**os.environ, "PYTHONPATH": str(TOP)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(max(0.0, min(JOB_SECONDS, until - time.monotonic())))
            except subprocess.TimeoutExpired:
                pass
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        lines = events.read_text().splitlines() if events.exists() else []
        found = [json.loads(line) for line in lines]
        wrong, sentence = check(expected, found)
        if wrong:
            sys.stderr.write(f"-- {expected.title}\n{log.read_text(errors='replace')[-3000:]}\n")
        return wrong, sentence


def _without_server(expected: Expected) -> list[str]:
    # The directory of the sockets is this run's alone; without it no server is started.
    return ["env", "-u", "TIMERS_RECORDER_DIR"] if expected.without_server else []


def check(expected: Expected, events: list[dict[str, Any]]) -> tuple[list[str], str]:
    """Compare the first report with what is expected."""
    reports = [event for event in events if event["event"] == "hang report"]
    expired = [event for event in events if event["event"] == "timer expired"]
    if not reports or not expired:
        return ["no timer expired, or there was no report"], ""
    report = reports[0]
    named = report["suspects"] or report["lagging"]
    wrong = []
    if report["verdict"] not in expected.verdicts:
        wrong.append(f"verdict {report['verdict']}, not {' or '.join(expected.verdicts)}")
    if tuple(each.get("rank") for each in named) != expected.ranks:
        wrong.append(f"named {[each.get('rank') for each in named]}, not {expected.ranks}")
    for each in named:
        if expected.frame not in each.get("frame", ""):
            wrong.append(f"at {each.get('frame')}, not in {expected.frame}")
        if expected.holds_up not in each.get("holds_up", ""):
            wrong.append(f"{each.get('holds_up')!r} without {expected.holds_up!r}")
    if "the flight recorder" not in report["evidence"]:
        wrong.append(f"decided by {report['evidence']}")
    seconds = _at(report) - _at(expired[0])
    if seconds > expected.within:
        wrong.append(f"{seconds:.2f} s from the expiry to the report, not {expected.within} s")
    return wrong, f"{report['sentence']} ({report['confidence']}, {seconds:.2f} s)"


def _at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def main(names: list[str]) -> int:
    """Check the cases of these names, or all; return the exit status."""
    reason = why_not()
    if reason is not None:
        print(f"skipped: {reason}")
        return 0
    until = time.monotonic() + BOUND_SECONDS
    chosen = [each for each in CASES if not names or each.case in names]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda each: run(each, until), chosen))
    for expected, (wrong, sentence) in zip(chosen, results, strict=True):
        print(f"{'FAILED' if wrong else 'ok':6} {expected.title}: {'; '.join(wrong) or sentence}")
        if wrong and sentence:
            print(f"       {sentence}")
    return int(any(wrong for wrong, _ in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
