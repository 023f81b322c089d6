from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.fixtures import files, recorder, sockets
from support.servers import FilePair, SocketPair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["files", "recorder", "sockets"]


@pytest.fixture(params=["pipe", "socket"])
def either(request: pytest.FixtureRequest) -> Iterator[FilePair | SocketPair]:
    """One of them after the other."""
    pairs: dict[str, Callable[[], FilePair | SocketPair]] = {"pipe": FilePair, "socket": SocketPair}
    pair = pairs[request.param]()
    yield pair
    pair.close()


@pytest.fixture
def root() -> None:
    """For tests with a second user."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become a second user")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory like /tmp: everybody may create files, nobody removes those of others."""
    with tempfile.TemporaryDirectory() as name:  # those of pytest are closed to other users
        path = Path(name)
        path.chmod(0o1777)
        yield path
