"""``python -m tests.faults``, from the top of the tree: the matrix as a Markdown table."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # As pytest does (pyproject.toml): what tests share is found from there.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from faults.registry import table

    print(table())
