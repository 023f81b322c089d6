"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform

__all__ = ["description"]


def description() -> str:
    """One line: versions, cores, and how busy the machine was with other things."""
    cores = len(os.sched_getaffinity(0))
    known = [
        f"Python {platform.python_version()}",
        f"{platform.system()} {platform.release()}",
        f"{cores} cores",
        f"load {os.getloadavg()[0]:.1f} at the start",
    ]
    for distribution in ("torch", "py-spy"):
        try:
            known.append(f"{distribution} {importlib.metadata.version(distribution)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(known)
