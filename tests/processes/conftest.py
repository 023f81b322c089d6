from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from support.fixtures import files, recorder, sockets
from support.servers import FilePair, LocalPair, SocketChildren, SocketPair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.servers import Pair

__all__ = ["files", "recorder", "sockets"]

_PAIRS: dict[str, Callable[[], Pair]] = {
    "file": FilePair,
    "socket": SocketPair,
    **{
        f"socket-{method}": partial(SocketChildren, method)
        for method in ("fork", "spawn", "forkserver")
    },
    **{
        f"{queue}-{method}": partial(LocalPair, queue, method)
        for queue in ("Queue", "SimpleQueue")
        for method in ("fork", "spawn", "forkserver")
    },
}


@pytest.fixture(params=_PAIRS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Each kind of server with its workers, one after the other."""
    pair = _PAIRS[request.param]()
    yield pair
    pair.close()


@pytest.fixture
def root() -> None:
    """For tests that need a second user or a namespace of pids."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
