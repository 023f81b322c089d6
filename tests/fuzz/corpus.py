"""The inputs that are kept: small files, one folder a target, tried again by every test run.

Names say what is in a file where a person wrote it; those that a fuzzer found are named by the
hash of their bytes, with ``crash-`` in front when they once made something fail.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["files", "folder", "keep", "read"]


def folder(name: str) -> Path:
    """Where the inputs of a target are."""
    return Path(__file__).resolve().parent / "corpus" / name


def files(name: str) -> list[Path]:
    """Each input of a target, in the order of their names."""
    return sorted(path for path in folder(name).iterdir() if path.is_file())


def read(name: str) -> list[bytes]:
    """The bytes of each."""
    return [path.read_bytes() for path in files(name)]


def keep(name: str, data: bytes, prefix: str = "") -> Path:
    """Add an input, unless it is there, and return its file."""
    path = folder(name) / f"{prefix}{hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
