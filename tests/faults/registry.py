"""All faults, and the matrix as a table.

Each module of this folder whose name begins with ``environment_`` or ``engine_`` has a list
``FAULTS``; the rows stand in the order of the modules' names and of their lists.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from .promises import PROMISES

if TYPE_CHECKING:
    from .fault import Fault

__all__ = ["FAULTS", "table"]

_FOLDER = Path(__file__).parent
_KEPT = "yes"


def _found() -> list[Fault]:
    files = [*_FOLDER.glob("environment_*.py"), *_FOLDER.glob("engine_*.py")]
    names = [path.stem for path in sorted(files, key=lambda path: (path.stem[:3] != "env", path))]
    return [fault for name in names for fault in importlib.import_module(f"faults.{name}").FAULTS]


def table() -> str:
    """The matrix in Markdown, without a final newline."""
    rows = [["Fault", *(promise.heading for promise in PROMISES)]]
    rows.append(["---"] * len(rows[0]))
    for fault in FAULTS:
        cells = [
            fault.weaker[promise].words if promise in fault.weaker else _KEPT
            for promise in PROMISES
        ]
        rows.append([fault.name, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


FAULTS = _found()
"""The rows."""
