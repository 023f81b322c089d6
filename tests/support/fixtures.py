"""Fixtures of several folders; their conftest modules import them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .recording import Recorder
from .servers import FilePair, SocketPair

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["files", "recorder", "sockets"]


@pytest.fixture
def files() -> Iterator[FilePair]:
    """The named pipe alone, for what only it can do."""
    pair = FilePair()
    yield pair
    pair.close()


@pytest.fixture
def sockets() -> Iterator[SocketPair]:
    """The Unix socket alone."""
    pair = SocketPair()
    yield pair
    pair.close()


@pytest.fixture
def recorder() -> Recorder:
    """An observer that remembers."""
    return Recorder()
