"""Ask pip-audit for known vulnerabilities of what an installation of this package brings along.

Exits with 1 when there is one. Where the database cannot be asked (no network, an index without
such data) it says so and exits with 0: that is no finding about this package. What was asked and
what could not be is printed in any case, because pip-audit itself passes when it knows nothing.

Test tools and torch are not looked at: they are not what a user of the service runs.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from typing import Any

DISTRIBUTION = "expiration-timers"
EXTRAS = ("otel",)
SECONDS = 300


def closure() -> dict[str, str]:
    """The versions of all that is installed because of this package."""
    found: dict[str, str] = {}
    waiting = [DISTRIBUTION]
    while waiting:
        try:
            distribution = importlib.metadata.distribution(waiting.pop())
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        name = distribution.metadata["Name"]
        if name in found:
            continue
        found[name] = distribution.version
        for requirement in distribution.requires or ():
            extra = re.search(r"extra *== *['\"]([^'\"]+)['\"]", requirement)
            if extra is None or (name == DISTRIBUTION and extra[1] in EXTRAS):
                waiting.append(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
    found.pop(DISTRIBUTION, None)
    return found


def ask(versions: dict[str, str]) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit says of each, and why it does not say more."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in versions.items())
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner"]
        command += ["off", "--no-deps", "--disable-pip", "--requirement", file.name]
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return [], f"no answer within {SECONDS} s"
    try:
        return json.loads(ran.stdout)["dependencies"], ""
    except (ValueError, KeyError):
        return [], (ran.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]


def main() -> int:
    """Tell what is known; the exit status."""
    versions = closure()
    answers, problem = ask(versions)
    asked = [answer for answer in answers if "vulns" in answer]
    for answer in asked:
        for each in answer["vulns"]:
            fixed = ", ".join(each.get("fix_versions", ())) or "no version"
            print(f"{answer['name']} {answer['version']}: {each['id']}, fixed in {fixed}")
    silent = sorted(set(versions) - {answer["name"] for answer in asked})
    if silent:
        reasons = {answer.get("skip_reason", "") for answer in answers} - {""}
        why = problem or "; ".join(sorted(reasons)[:1])
        print(f"could not be asked about {len(silent)} of {len(versions)} packages: {why}")
    vulnerable = sum(bool(answer["vulns"]) for answer in asked)
    print(f"{vulnerable} of {len(asked)} packages that could be asked about are vulnerable")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
