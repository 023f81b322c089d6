"""Every rule that is suppressed, and every type error that is ignored, says why."""

from __future__ import annotations

import re
import tokenize
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
FOLDERS = ("timers", "observability", "dashboards", "examples", "tests")
FILES = sorted(path for folder in FOLDERS for path in (TOP / folder).rglob("*.py"))
CODES = r"[A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)*"
SUPPRESSION = re.compile(r"#\s*(?:ruff:\s*)?noqa\b|#\s*type:\s*ignore\b|#\s*nosec\b", re.IGNORECASE)
JUSTIFIED = re.compile(
    rf"# (?:(?:ruff: )?noqa: {CODES}|type: ignore\[[a-z-]+(?:, ?[a-z-]+)*\])"
    rf"(?:  # noqa: {CODES})?"
    r"(?:  # | - )(?P<reason>(?!noqa)[^#].*)"
)


def comments(path: Path) -> list[tuple[int, str]]:
    with path.open("rb") as file:
        return [
            (token.start[0], token.string)
            for token in tokenize.tokenize(file.readline)
            if token.type == tokenize.COMMENT
        ]


def unjustified(path: Path) -> list[str]:
    """The suppressions that name no rule, or give no reason of at least a word."""
    found = []
    for line, text in comments(path):
        if SUPPRESSION.search(text):
            match = JUSTIFIED.fullmatch(text)
            if match is None or not re.search(r"[a-z]{2}", match["reason"]):
                found.append(f"{path.relative_to(TOP)}:{line}: {text}")
    return found


def test_every_suppression_names_its_rule_and_its_reason() -> None:
    assert len(FILES) > 100
    suppressed = [path for path in FILES if any(SUPPRESSION.search(t) for _, t in comments(path))]
    assert suppressed
    assert [complaint for path in suppressed for complaint in unjustified(path)] == []


@pytest.mark.parametrize(
    ("comment", "justified"),
    [
        ("# noqa: S101  # click has those three built in", True),
        ("# noqa: C901, PLR0912  # hot path", True),
        ("# noqa: PLC0415 - an extra", True),
        ("# ruff: noqa: E402  # what follows is found through the line above", True),
        ("# type: ignore[misc]  # bound", True),
        ("# type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  # selenium's", True),
        ("# noqa", False),
        ("# noqa: S101", False),
        ("# noqa:S101  # no space", False),
        ("# noqa: S101  #", False),
        ("# noqa: S101  # !", False),
        ("# noqa: S101 because", False),
        ("# type: ignore", False),
        ("# type: ignore  # whatever it is", False),
        ("# type: ignore[misc]", False),
        ("# type: ignore[no-untyped-def]  # noqa: ANN001, ANN202", False),
        ("# nosec", False),
    ],
)
def test_what_counts_as_a_reason(comment: str, justified: bool) -> None:
    assert SUPPRESSION.search(comment)
    match = JUSTIFIED.fullmatch(comment)
    assert bool(match and re.search(r"[a-z]{2}", match["reason"])) is justified


def test_the_rules_of_bandit_are_on_for_what_is_shipped() -> None:
    lint = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "ALL" in lint["select"] or "S" in lint["select"]
    off = [rule for rule in lint["ignore"] if re.match(r"S\d*$", rule)]
    assert off == ["S603"]  # subprocess is called with lists, never with a shell
    for folder, rules in lint["per-file-ignores"].items():
        if not folder.startswith("tests/"):
            assert [rule for rule in rules if re.match(r"S\d*$", rule)] in ([], ["S101"]), folder


def test_every_rule_that_is_off_says_why() -> None:
    text = (TOP / "pyproject.toml").read_text()
    section = text.split("[tool.ruff.lint]\n", 1)[1].split("\n[tool.ruff.lint.pydocstyle]", 1)[0]
    ignored = [line for line in section.splitlines() if re.match(r'\s+"[A-Z]+\d*"', line)]
    assert ignored
    assert [line for line in ignored if not re.search(r"#\s*\w.*\s\w", line)] == []
