"""``python -m tests.benchmarks [NAME]... [--json]``, from the top of the tree."""

from __future__ import annotations

import argparse

from . import connections, cost, lateness, server
from .table import as_json, as_text

_BENCHMARKS = {
    "cost": ("Cost of one block in the worker", cost.rows),
    "server": ("CPU time of the server for one request", server.rows),
    "connections": ("A thousand workers on one socket", connections.rows),
    "lateness": ("From the deadline to the worker's death", lateness.rows),
}


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(_BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="every sample, one object a benchmark")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(_BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(_BENCHMARKS)}")
    for name in options.names or _BENCHMARKS:
        title, rows = _BENCHMARKS[name]
        print((as_json if options.json else as_text)(title, list(rows())), flush=True)
        print()


if __name__ == "__main__":
    main()
