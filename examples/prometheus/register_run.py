#!/usr/bin/env python3
"""Tell Prometheus which hosts a run is on, for as long as it runs (file-based service discovery).

In the prologue and the epilogue of your scheduler, on one host of the run:

    register_run.py add    /etc/prometheus/targets RUN_ID gpu-1:9464 gpu-2:9464 ...
    register_run.py remove /etc/prometheus/targets RUN_ID

A run that has been removed is forgotten, so that its silence alarms nobody. Needs no package.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path


def target_file(directory: Path, run_id: str) -> Path:
    """Where the targets of a run are kept; a run id never leads out of the directory."""
    return directory / (re.sub(r"[^A-Za-z0-9._-]", "_", run_id).lstrip(".") + ".json")


def add(directory: Path, run_id: str, targets: list[str]) -> None:
    """Write the targets of a run, so that Prometheus never reads half a file."""
    text = json.dumps([{"targets": targets, "labels": {}}], indent=2) + "\n"
    # Not ending in .json until it is complete, and readable by Prometheus, which is another user.
    handle, name = tempfile.mkstemp(dir=directory, prefix=".")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(name).chmod(0o644)
    Path(name).replace(target_file(directory, run_id))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["add", "remove"])
    parser.add_argument("directory", type=Path, help="the directory that Prometheus watches")
    parser.add_argument("run_id")
    parser.add_argument("targets", nargs="*", help="HOST:PORT of each timer service of the run")
    options = parser.parse_args()
    if options.what == "remove":
        target_file(options.directory, options.run_id).unlink(missing_ok=True)
    elif options.targets:
        add(options.directory, options.run_id, options.targets)
    else:
        parser.error("add needs at least one HOST:PORT")
    return 0


if __name__ == "__main__":
    sys.exit(main())
