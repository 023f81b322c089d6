"""Whether a path may have been prepared by somebody else, for this process to write to.

The kernel's own protection (proc_sys_fs(5), ``protected_symlinks``, ``protected_regular`` and
``protected_fifos``) is off by default, in many containers and in directories without a sticky bit.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from timers.errors import InsecurePathError

if TYPE_CHECKING:
    from pathlib import Path


def in_shared_directory(path: Path) -> bool:
    """Whether everybody may create ``path``, as in /tmp.

    :raises OSError: its directory cannot be looked at.
    """
    return bool(os.stat(path.parent).st_mode & stat.S_IWOTH)


def check_owner(path: Path, found: os.stat_result) -> None:
    """Check that what was found at ``path``, in a shared directory, is not somebody else's.

    It may be that of this user or of the directory's owner, as for the kernel's protection.

    :raises InsecurePathError: it is.
    :raises OSError: its directory cannot be looked at.
    """
    if found.st_uid not in (os.geteuid(), os.stat(path.parent).st_uid):
        raise InsecurePathError(
            errno.EPERM,
            f"it belongs to user {found.st_uid} and is in a directory that everybody may write to: "
            "use a directory of your own",
            str(path),
        )
