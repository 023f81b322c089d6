"""Read what the log sink wrote, as a strict reader would."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["block_counts", "of", "parse", "read", "read_so_far"]


def parse(data: bytes) -> list[dict[str, Any]]:
    """Each line as JSON; fails on a line that is not ASCII, is torn, or is not an object."""
    text = data.decode("ascii")
    assert text == "" or text.endswith("\n")
    lines = [json.loads(line, parse_constant=_refuse) for line in text.split("\n")[:-1]]
    assert all(isinstance(line, dict) for line in lines)
    return lines


def read(path: Path) -> list[dict[str, Any]]:
    return parse(path.read_bytes())


def read_so_far(path: Path) -> list[dict[str, Any]]:
    """The same of a file that is written meanwhile, or is not there yet: its whole lines."""
    data = path.read_bytes() if path.exists() else b""
    return parse(data[: data.rfind(b"\n") + 1])


def of(path: Path, name: str) -> list[dict[str, Any]]:
    """Of these, the events of one name."""
    return [event for event in read_so_far(path) if event["event"] == name]


def block_counts(path: Path) -> dict[str, int]:
    """By scope, how many blocks there were."""
    entries = [entry for event in of(path, "scope durations") for entry in event["scopes"]]
    return {
        entry["scope_id"]: entry["warm_up"]["count"] + entry["steady"]["count"] for entry in entries
    }


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")
