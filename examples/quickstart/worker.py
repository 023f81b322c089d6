"""A worker: fetches files from a mirror, compresses them and stores them. Three lines of timers."""

from __future__ import annotations

import gzip
import http.client
import os
from typing import TYPE_CHECKING

import timers

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def work(mirror: str, names: Iterable[str], folder: Path) -> None:
    """Fetch what is not in ``folder`` yet, so that a restarted worker goes on where it was."""
    timers.configure_from_env()
    for name in names:
        target = folder / f"{name}.gz"
        if target.exists():
            continue
        with timers.expires(after=3, scope="fetch"):
            data = fetch(mirror, name)
        unfinished = target.with_suffix(".tmp")
        unfinished.write_bytes(gzip.compress(data))
        os.replace(unfinished, target)


def fetch(mirror: str, name: str) -> bytes:
    """Get one file over HTTP, with a bug that many programs have: no timeout."""
    connection = http.client.HTTPConnection(mirror)
    connection.request("GET", f"/{name}")
    response = connection.getresponse()  # a mirror that never answers is waited for for ever
    if response.status != http.HTTPStatus.OK:
        raise OSError(f"http://{mirror}/{name}: {response.status} {response.reason}")
    return response.read()
