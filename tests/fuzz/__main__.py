"""``python -m tests.fuzz``: see :mod:`fuzz.command`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.command import main  # found by the line above

if __name__ == "__main__":
    sys.exit(main())
