"""Grafana's own panels in a real browser: installed and bundled once, outside the tree."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .tools import missing, require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["draw", "libraries", "refused_logql"]

HARNESS = Path(__file__).parents[2] / "dashboards" / "grafana"


def libraries() -> Path:
    """Install what the harness needs, once for each lock file; the directory with node_modules."""
    require("node", "nodejs")
    npm = require("npm", "npm")
    place = _cache() / f"libraries-{_digest([HARNESS / 'package-lock.json'])}"
    with _locked(place):
        if not (place / "installed").exists():
            place.mkdir(exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HARNESS / name, place)
            done = subprocess.run(
                [npm, "ci", "--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=place,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                missing(f"npm could not install Grafana's panel libraries: {done.stderr[-500:]}")
            (place / "installed").touch()
    return place


def draw(**wanted: Any) -> dict[str, Any]:
    """Draw a dashboard; see draw.mjs for what can be wanted and what is answered."""
    chromium = require("chromium", "chromium")
    place = _bundle()
    done = subprocess.run(
        ["node", "draw.mjs", json.dumps({"bundle": str(place), "chromium": chromium, **wanted})],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused_logql(queries: Sequence[str]) -> list[list[str]]:
    """What LogQL's grammar refuses in each query: nothing, when all is well."""
    place = _bundle()
    done = subprocess.run(
        ["node", "logql.mjs"],
        cwd=place,
        input=json.dumps(queries),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[list[str]] = json.loads(done.stdout)
    return found


def _bundle() -> Path:
    """Copy the harness next to the libraries and bundle it, once for each state of its sources."""
    installed = libraries()
    sources = [*sorted(HARNESS.glob("src/*")), *sorted(HARNESS.glob("*.mjs"))]
    place = _cache() / f"bundle-{_digest([HARNESS / 'package-lock.json', *sources])}"
    with _locked(place):
        if not (place / "main.js").exists():
            place.mkdir(exist_ok=True)
            shutil.copytree(HARNESS / "src", place / "src", dirs_exist_ok=True)
            for script in HARNESS.glob("*.mjs"):
                shutil.copy(script, place)
            if not (place / "node_modules").is_symlink():
                (place / "node_modules").symlink_to(installed / "node_modules")
            subprocess.run(["node", "bundle.mjs", str(place)], cwd=place, check=True)
    return place


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(home) / "expiration-timers"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Only one process at a time builds a place; the others wait and find it built."""
    with place.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
