"""Measure, side by side in one run, and print a table for each benchmark.

``python -m tests.benchmarks [NAME]... [--quick] [--json | --markdown]``, from the top of the tree.
Without a NAME, all of them and then the targets. The name ``targets`` alone measures what they are
about and prints nothing else.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from . import (
    boards,
    connections,
    cost,
    explaining,
    fairness,
    growth,
    idle,
    lateness,
    server,
    starting,
    table,
    targets,
    telling,
    training,
)
from .effort import Effort
from .machine import description

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .table import Row

BENCHMARKS: dict[str, tuple[str, Callable[[Effort], Iterator[Row]]]] = {
    "cost": ("Cost of one block in the worker", cost.rows),
    "server": ("Requests that one server takes", server.rows),
    "boards": ("Blocks on boards", boards.rows),
    "lateness": ("From the deadline to the signal, and to the worker's death", lateness.rows),
    "fairness": ("Stuck workers beside others at full speed", fairness.rows),
    "growth": ("With more and more active timers", growth.rows),
    "telling": ("Events and scrapes", telling.rows),
    "starting": ("Time to start", starting.rows),
    "idle": ("A service with nothing to do", idle.rows),
    "connections": ("A thousand workers on one socket", connections.rows),
    "training": ("A job that nobody changed", training.rows),
    "explaining": ("From samples and recorders to the hang report", explaining.rows),
}
_TARGETS = "targets"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*BENCHMARKS, _TARGETS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="a smoke run: no figures to quote")
    parser.add_argument("--without-torch", action="store_true", help="leave torch's rows out")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="every sample, one line a table")
    shape.add_argument("--markdown", action="store_true", help="tables for a README")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(names))
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(names)}")
    return options


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    options = _options()
    shape = "as_json" if options.json else "as_markdown" if options.markdown else "as_text"
    effort = Effort(options.quick, not options.without_torch)
    wanted = options.names or [*BENCHMARKS, _TARGETS]
    needed = targets.NEEDED if _TARGETS in wanted else ()
    _show(json.dumps({"machine": description()}) if options.json else description(), options)
    found = {}
    for name, (title, measure) in BENCHMARKS.items():
        if name in wanted or name in needed:
            found[name] = list(measure(effort))
        if name in wanted:
            _show(getattr(table, shape)(title, found[name]), options)
    if _TARGETS in wanted:
        lines = list(targets.targets(found, effort))
        _show(getattr(targets, shape)(lines), options)


def _show(text: str, options: argparse.Namespace) -> None:
    print(text, end="\n" if options.json else "\n\n", flush=True)


if __name__ == "__main__":
    main()
