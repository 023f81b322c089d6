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
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# What follows is found through the line above.
from gpu.cases import CASES, Expected
from gpu.job import RANKS

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
TIMERS = [sys.executable, "-m", "observability"]
BOUND_SECONDS = 350.0
"""Of the whole script, and a little more to write down what came of it."""
JOB_SECONDS = 110.0
AT_ONCE = 3
"""Jobs beside each other, of four ranks on the one card."""


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
        log, events = Path(directory) / "log", Path(directory) / "events.jsonl"
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(expected, events),
                cwd=TOP,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(TOP), os.environ.get("PYTHONPATH", "")]),
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                if not expected.options:
                    _explain_when_stuck(process, log, events, until)
                process.wait(0 if not expected.options else _left(until))
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
        if expected.verdicts:
            wrong, sentence = check(expected, found)
        else:
            wrong, sentence = check_nothing_said(expected, found, process.returncode)
        if wrong:
            sys.stderr.write(f"-- {expected.title}\n{log.read_text(errors='replace')[-3000:]}\n")
        _keep(expected, log, events)
        return wrong, sentence


def _command(expected: Expected, events: Path) -> list[str]:
    job = [*expected.wrapper, sys.executable, str(HERE / "job.py"), expected.case]
    job += ["plain"] if expected.plain else []
    if not expected.options:
        return job
    return [*TIMERS, "run", "--events", str(events), "--http", "off", *expected.options, "--", *job]


def _left(until: float) -> float:
    return max(0.0, min(JOB_SECONDS, until - time.monotonic()))


def _explain_when_stuck(
    process: subprocess.Popen[bytes], log: Path, events: Path, until: float
) -> None:
    end = time.monotonic() + _left(until)
    while log.read_bytes().count(b"good steps") < RANKS and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(2.0)  # until those that are not stuck have come to their wait
    explained = subprocess.run(
        [*TIMERS, "explain", "--json", str(process.pid)], cwd=TOP, capture_output=True, check=False
    )
    events.write_bytes(explained.stdout)


def _keep(expected: Expected, log: Path, events: Path) -> None:
    """Leave what was written where somebody wants to read it."""
    folder = os.environ.get("TIMERS_GPU_KEEP")
    if folder:
        for path in (log, events):
            if path.exists():
                name = f"{expected.title.replace(' ', '_').replace(',', '')}.{path.name}"
                shutil.copy(path, Path(folder) / name)


def check(expected: Expected, events: list[dict[str, Any]]) -> tuple[list[str], str]:
    """Compare the first report with what is expected."""
    reports = [event for event in events if event["event"] == expected.event]
    expired = [event for event in events if event["event"] == "timer expired"]
    timed = not expected.plain
    if not reports or (timed and not expired):
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
    if expected.evidence and expected.evidence not in report["evidence"]:
        wrong.append(f"decided by {report['evidence']}, not by {expected.evidence}")
    seconds = _at(report) - _at(expired[0]) if timed else 0.0
    if seconds > expected.within:
        wrong.append(f"{seconds:.2f} s from the expiry to the report, not {expected.within} s")
    took = f", {seconds:.2f} s" if timed else ""
    return wrong, f"{report['sentence']} ({report['confidence']}{took})"


def check_nothing_said(
    expected: Expected, events: list[dict[str, Any]], status: int
) -> tuple[list[str], str]:
    """Check that a job ended well, and that nobody was alarmed before."""
    wrong = [event["sentence"] for event in events if event["event"] == expected.event]
    if status != 0:
        wrong.append(f"it ended with {status}")
    return wrong, "" if wrong else "nothing was said, and it ended well"


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
