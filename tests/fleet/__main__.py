"""``python -m tests.fleet [OPTION OF PYTEST]...``, from the top of the tree: minutes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["TIMERS_FLEET_MATRIX"] = "1"
    here = Path(__file__).resolve().parent
    sys.exit(pytest.main([str(here), "-p", "no:randomly", "-v", *sys.argv[1:]]))
