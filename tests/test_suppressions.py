"""Every rule that is suppressed, and every type error that is ignored, says why."""

from __future__ import annotations

import re
import tokenize
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
                found.append(f"{path}:{line}: {text}")
    return found


@pytest.mark.slow
def test_every_suppression_names_its_rule_and_its_reason() -> None:
    assert len(FILES) > 100
    suppressed = [path for path in FILES if SUPPRESSION.search(path.read_text("utf-8"))]
    assert suppressed
    assert [complaint for path in suppressed for complaint in unjustified(path)] == []


@pytest.mark.parametrize(
    ("line", "complaints"),
    [
        ("x = 1  # noqa: S101  # click has those three built in", 0),
        ("x = 1  # type: ignore[misc]  # bound", 0),
        ("x = 1  # noqa", 1),
        ("x = 1  # noqa: S101", 1),
        ("x = 1  # type: ignore[misc]", 1),
    ],
)
def test_a_bare_suppression_is_found(line: str, complaints: int, tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(f"{line}\n")
    assert len(unjustified(module)) == complaints
