"""``python -m tests.hangs [RUNS [CASE]...]``, from the top: how often hang reports are right.

Runs each CASE of :mod:`hangs.ddp` (all of them) as a real job, RUNS times (3) with torch's Flight
Recorder and as often without it, which takes three minutes, and prints a Markdown table.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # As pytest does (pyproject.toml): what tests share is found from there.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hangs.ddp import CASES, SLOW, explained, job, launcher, source

if TYPE_CHECKING:
    import subprocess

    from hangs.ddp import Case
    from observability.hang.types import HangReport

RIGHT, WRONG, OPEN = "right", "wrong", "inconclusive"


def judged(case: Case, report: HangReport) -> str:
    """Right: the ranks and lines that the case asks for. Wrong: somebody else is accused."""
    accused = {each.rank for each in report.suspects}
    if not accused <= (set() if case.verdict is SLOW else set(case.named)):
        return WRONG
    named = report.suspects or report.lagging
    ranks = tuple(each.rank for each in named)
    lines = all(not case.lines or source(each.frame) in case.lines for each in named)
    return RIGHT if report.verdict is case.verdict and ranks == case.named and lines else OPEN


def tried(started: subprocess.Popen[str], case: Case, *, recorder: bool) -> tuple[str, str]:
    """The judgement of one real job, and how sure the report was."""
    with (
        tempfile.TemporaryDirectory() as directory,
        job(started, case, Path(directory), recorder=recorder) as pids,
    ):
        report = explained(pids)
    return judged(case, report), report.confidence.value


def main(runs: int, names: list[str]) -> None:
    """Print the table, and how often each confidence was right."""
    if unknown := sorted(set(names) - set(map(str, CASES))):
        sys.exit(f"no case {', '.join(unknown)}; there are {', '.join(map(str, CASES))}")
    sure: Counter[tuple[str, str]] = Counter()
    print("| case | with the recorder | without it |", "| --- | --- | --- |", sep="\n")
    with tempfile.TemporaryDirectory() as recorders, launcher(Path(recorders)) as started:
        for case in [case for case in CASES if not names or str(case) in names]:
            cells = []
            for recorder in (True, False):
                found = [tried(started, case, recorder=recorder) for _ in range(runs)]
                sure.update((confidence, judgement) for judgement, confidence in found)
                count = Counter(judgement for judgement, _ in found)
                cells.append(", ".join(f"{number} {word}" for word, number in count.items()))
            print(f"| {case} |", " | ".join(cells), "|", flush=True)
    print(
        "", "| confidence | right | inconclusive | wrong |", "| --- | --- | --- | --- |", sep="\n"
    )
    for confidence in ("high", "medium", "low"):
        numbers = [str(sure[confidence, word]) for word in (RIGHT, OPEN, WRONG)]
        print(f"| {confidence} |", " | ".join(numbers), "|")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2:])
