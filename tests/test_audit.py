"""The audit of the dependencies fails for a vulnerability, and says when it knows nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).resolve().parent.parent / ".ci" / "audit.py"
VULNERABLE = {"id": "CVE-1", "fix_versions": ["9.9"], "aliases": [], "description": ""}


def audited(directory: Path, script: str) -> tuple[int, str]:
    """Run it with a pip-audit of ours."""
    (directory / "pip_audit.py").write_text(script)
    ran = subprocess.run(
        [sys.executable, str(AUDIT)],
        env={**os.environ, "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return ran.returncode, ran.stdout + ran.stderr


def says(answer: object) -> str:
    return f"print({json.dumps(answer)!r})"


def test_a_vulnerability_fails(tmp_path: Path) -> None:
    answers = [
        {"name": "rich", "version": "1", "vulns": [VULNERABLE]},
        {"name": "click", "version": "1", "vulns": []},
    ]
    code, said = audited(tmp_path, says({"dependencies": answers}) + "\nraise SystemExit(1)")
    assert code == 1
    assert "rich 1: CVE-1, fixed in 9.9" in said
    assert "1 of 2 packages" in said


def test_without_any_it_passes(tmp_path: Path) -> None:
    script = (
        "import json, re, sys\n"
        "names = [line.split('==') for line in open(sys.argv[-1]).read().split()]\n"
        "assert ['uvicorn'] in [name[:1] for name in names]\n"
        "assert ['pytest'] not in [name[:1] for name in names]\n"
        "print(json.dumps({'dependencies': "
        "[{'name': n, 'version': v, 'vulns': []} for n, v in names]}))\n"
    )
    code, said = audited(tmp_path, script)
    assert (code, "could not be asked" in said) == (0, False)
    assert said.startswith("0 of ")


@pytest.mark.process
@pytest.mark.parametrize(
    "script",
    [
        says({"dependencies": [{"name": "rich", "skip_reason": "not found on PyPI"}]}),
        "import sys; sys.exit('Name or service not known')",
        "raise SystemExit(1)",
        "print('{')",
    ],
)
def test_what_could_not_be_asked_is_said_and_no_failure(tmp_path: Path, script: str) -> None:
    code, said = audited(tmp_path, script)
    assert code == 0
    assert "could not be asked about " in said
    assert "0 of 0 packages" in said
