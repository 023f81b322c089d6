"""Programs that only some machines have: a test that needs one is skipped, on CI it fails."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["missing", "require"]


def missing(what: str) -> None:
    """End the test: as a failure on CI, where everything has to be there, else as skipped."""
    if os.environ.get("CI"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def require(program: str, package: str) -> str:
    """Return the path of ``program``; ``package`` is what to install when it is missing."""
    path = shutil.which(program)
    if path is None:
        missing(f"{program} is not installed: apt-get install {package}")
    return str(path)
