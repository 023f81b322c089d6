"""What faults need of the machine: mounts, and a second user."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from support.children import OTHER_UID, same_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .stage import Stage

__all__ = [
    "as_nobody",
    "mount_reason",
    "mounted",
    "other_user_reason",
    "run_as_nobody",
    "unmount",
]

_NOBODY = ("setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups")
_READS_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


@functools.cache
def mount_reason() -> str | None:
    """Why nothing can be mounted here."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if shutil.which("unshare") is None:
        return "unshare(1) is not installed"
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"nothing can be mounted: {done.stderr.strip()}"


@contextlib.contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[Path]:
    """A directory with something mounted there."""
    path.mkdir()
    subprocess.run(["mount", *arguments, str(path)], check=True)
    try:
        yield path
    finally:
        unmount(path)


def unmount(path: Path) -> None:
    """Have nothing mounted there any more, whoever still uses it."""
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def other_user_reason() -> str | None:
    """Why nothing can be run as another user here."""
    if os.geteuid() != 0:
        return "running as another user needs root"
    return None if shutil.which("setpriv") else "setpriv(1) is not installed"


@functools.cache
def as_nobody() -> tuple[str, ...]:
    """A prefix that runs Python as a user with no rights, but for reading this tree."""
    for prefix in (_NOBODY, (*_NOBODY, *_READS_ALL)):
        # Where the tree or the interpreter are below a home directory, nobody may not read them.
        command = [*prefix, sys.executable, "-c", "import observability.cli.main"]
        done = subprocess.run(command, env=same_path(), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return prefix
    raise AssertionError(f"{sys.executable} cannot be run as another user: {done.stderr}")


def run_as_nobody(stage: Stage) -> None:
    """Have the service and its workers belong to another user."""
    for path in (stage.directory, stage.directory / "tmp"):
        os.chown(path, OTHER_UID, OTHER_UID)
    stage.wrapper = [*stage.wrapper, *as_nobody()]
    stage.worker_wrapper = as_nobody()
