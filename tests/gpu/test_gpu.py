"""The prepared script on a GPU, where there is one; its checks themselves, everywhere."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from gpu import check
from gpu.cases import CASES, Expected
from observability.hang.report import analyse
from support import recorded


@pytest.mark.timeout(420)
def test_jobs_of_nccl_that_hang() -> None:
    reason = check.why_not()
    if reason is not None:
        pytest.skip(reason)
    ran = subprocess.run(
        [sys.executable, check.__file__], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def events(case: str) -> list[dict[str, Any]]:
    """What a run of that case would have logged, by the recorded dumps."""
    report = analyse(recorded.views(case))
    at = "2026-01-01T00:00:0{}.000000Z"
    return [
        {"event": "timer expired", "timestamp": at.format(0)},
        {"event": "hang report", "timestamp": at.format(1), **report.to_dict()},
    ]


RECORDED = {
    "before_step": "skip",
    "mismatch": "mismatch",
    "endless_kernel": "kernel",
    "gil": "gil",
    "uneven_data": "uneven",
    "two_groups": "groups",
}


@pytest.mark.parametrize("case", RECORDED)
def test_the_checks_pass_on_what_was_recorded(case: str) -> None:
    expected = next(each for each in CASES if each.case == case)
    wrong, sentence = check.check(expected, events(RECORDED[case]))
    assert wrong == []
    assert "1.00 s" in sentence


def test_the_checks_notice_what_is_wrong() -> None:
    expected = Expected("before_step", (1,), ("slow",), "elsewhere", "nothing", within=0.5)
    wrong, _ = check.check(expected, events("skip"))
    assert len(wrong) == 5
    assert check.check(expected, [])[0] == ["no timer expired, or there was no report"]
    silent = Expected("long_steps", verdicts=())
    assert check.check_nothing_said(silent, [], 0)[0] == []
    assert len(check.check_nothing_said(silent, events("skip"), 1)[0]) == 2


def test_without_a_gpu_it_says_so_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "why_not", lambda: "there is no GPU")
    assert check.main([]) == 0
    assert capsys.readouterr().out == "skipped: there is no GPU\n"
