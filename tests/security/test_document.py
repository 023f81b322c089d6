"""SECURITY.md is true: each line has a test, and each test of this folder is in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
DOCUMENT = (TESTS.parent / ".github" / "SECURITY.md").read_text()
NAMED = re.findall(r"`((?:\w+/)+test_\w+\.py)::(test_\w+)`", DOCUMENT)
ROWS = [
    line
    for line in DOCUMENT.splitlines()
    if line.startswith("| ") and not line.startswith("| what |")
]


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("row", ROWS)
def test_each_line_says_what_holds_and_which_test_shows_it(row: str) -> None:
    _, what, verdict, tests, _ = re.split(r" ?\| ?", row)
    assert what
    assert "can" in verdict
    assert re.fullmatch(r"`[^`]+::test_\w+`(, `[^`]+::test_\w+`)*", tests)


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_each_named_test_is_there(file: str) -> None:
    assert {test for name, test in NAMED if name == file} <= functions_of(TESTS / file)


OTHERS = sorted(set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__)})


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_each_test_of_this_folder_is_named(path: Path) -> None:
    found = functions_of(path)
    assert found
    assert found <= {test for file, test in NAMED if TESTS / file == path}
