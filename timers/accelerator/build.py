"""Compiles the accelerator when the project is installed; run by hatchling, not by a worker.

Without a compiler, without Python's headers, or with ``TIMERS_ACCELERATOR=off``, the installation
is the pure one, which does the same.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FOLDER = os.path.join("timers", "accelerator")
_MODULES = ("_blocks", "_boards")


class Accelerator(BuildHookInterface[Any]):
    """Puts the compiled modules beside their sources, and from there into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, if that can be done."""
        del version  # an editable installation uses it where it lies
        if os.environ.get("TIMERS_ACCELERATOR", "").lower() == "off":
            return
        made = []
        for name in _MODULES:
            target = os.path.join(_FOLDER, f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}")
            why = _compiled(os.path.join(self.root, _FOLDER, f"{name}.c"), target, self.root)
            if why:
                self.app.display_warning(f"without the accelerator in C: {why}")
                return
            made.append(f"/{target}")
        build_data["artifacts"] += made
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _compiled(source: str, target: str, root: str) -> str:
    """Compile; return why that failed, or nothing."""
    if sys.platform != "linux" or sys.implementation.name != "cpython":
        return "it is for CPython on Linux"
    link = shlex.split(sysconfig.get_config_var("LDSHARED") or "cc -shared")
    include = sysconfig.get_path("include")
    # A process that uses the module meanwhile keeps the file that it has mapped.
    fresh = os.path.join(root, f"{target}.{os.getpid()}")
    try:
        subprocess.run(
            [*link, "-O2", "-fPIC", f"-I{include}", source, "-o", fresh],
            check=True,
            capture_output=True,
            text=True,
        )
        os.replace(fresh, os.path.join(root, target))
    except OSError as error:
        return str(error)
    except subprocess.CalledProcessError as error:
        return next(iter(error.stderr.splitlines()), f"{link[0]} ended with {error.returncode}")
    return ""
