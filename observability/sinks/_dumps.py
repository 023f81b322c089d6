"""Whole events in files of their own, for stacks that are too large for a line."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

from ._safe_paths import check_owner, in_shared_directory


class DumpDirectory:
    """A directory that keeps the last ``keep`` dumps.

    :param path: created, for this user alone, when it is not there: a stack shows source.
    :param keep: how many files to keep, at least 1; older ones of ours are deleted.
    :raises OSError: it cannot be created, or was made by somebody else where everybody may.
    :raises ValueError: for a ``keep`` below 1.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep: int = 100) -> None:
        if keep < 1:
            raise ValueError(f"a dump directory cannot keep {keep} files: pass keep >= 1")
        self.path = Path(path).absolute()
        self._keep = keep
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if in_shared_directory(self.path):
            check_owner(self.path, os.lstat(self.path))  # a link's owner is who made it

    def write(self, fields: dict[str, Any]) -> Path:
        """Write ``fields`` as JSON for reading and return where; the name sorts by time.

        :raises OSError: it cannot be written; nothing is left behind then.
        """
        moment = str(fields["timestamp"]).replace(":", "").replace("-", "")
        stem = f"stack-{moment}-{_word(str(fields.get('worker_pid', 'unknown')))}"
        text = json.dumps(fields, indent=1) + "\n"
        for number in itertools.count():
            path = self.path / f"{stem}-{number}.json"
            try:
                descriptor = os.open(
                    path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
                )
            except FileExistsError:
                continue
            break
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._prune()
        return path

    def _prune(self) -> None:
        for path in sorted(self.path.glob("stack-*.json"))[: -self._keep]:
            with contextlib.suppress(OSError):  # somebody else cleaned up at the same time
                path.unlink()


def _word(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text)[:32]
