"""What the tests of both ways over a socket connect to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from timers.transport.socket_path import listen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timers.transport.socket_path import Listener


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("s") / "s")


@pytest.fixture
def listener(path: str) -> Iterator[Listener]:
    listener = listen(path)
    yield listener
    listener.connections.close()
