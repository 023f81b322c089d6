"""Read what the log sink wrote, as a strict reader would."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["parse", "read"]


def parse(data: bytes) -> list[dict[str, Any]]:
    """Each line as JSON; fails on a line that is not ASCII, is torn, or is not an object."""
    text = data.decode("ascii")
    assert text == "" or text.endswith("\n")
    lines = [json.loads(line, parse_constant=_refuse) for line in text.split("\n")[:-1]]
    assert all(isinstance(line, dict) for line in lines)
    return lines


def read(path: Path) -> list[dict[str, Any]]:
    return parse(path.read_bytes())


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")
