"""The engine for torchrun's store: a real TCPStore, and what is left when it or the helper ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING

import pytest

from observability.fleet._c10d import C10dStore
from observability.fleet._store import StoreError
from support.processes import victim
from support.torch import require_torch

require_torch()

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
LONG = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Popen[str], int]]:
    with victim("tcp_store") as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())


def join(port: int, *, seconds: float = LONG) -> C10dStore:
    return C10dStore(sys.executable, os.environ, ("127.0.0.1", port), seconds=seconds)


def test_texts_numbers_and_waits(server: tuple[Popen[str], int]) -> None:
    store = join(server[1])
    try:
        assert [store.add("n", 1), store.add("n", 2), store.add("n", 0)] == [1, 3, 3]
        store.set("a", "x" * 100_000)
        assert store.get(["a", "b", "a"]) == ["x" * 100_000, None, "x" * 100_000]
        assert store.get([]) == []
        assert [store.set_first("c", "1"), store.set_first("c", "2")] == ["1", "1"]
        both = [store.wait([key], LONG) for key in ("later", "even later")]
        assert store.wait(["never"], 0.1).result(LONG) is False
        assert not any(each.done() for each in both)
        store.set("even later", "")
        assert both[1].result(LONG) is True
        store.set("later", "")
        assert both[0].result(LONG) is True
        store.delete(["a", "b"])
        assert store.get(["a", "even later"]) == [None, ""]
        many = [str(number) for number in range(100)]
        store.set("7", "seven")
        assert [text for text in store.get(many) if text] == ["seven"]
        store.set("long", "x" * ((1 << 20) + 1))  # from somebody without our bounds
        assert (store.get(["long"])[0] or "").strip() == ""
    finally:
        store.close()
    with pytest.raises(StoreError, match="closed"):
        store.add("n", 1)


def test_a_helper_that_dies_or_stops_costs_one_call_and_no_more_than_its_bound(
    server: tuple[Popen[str], int],
) -> None:
    first, second = join(server[1]), join(server[1], seconds=0.5)
    waiting = first.wait(["never"], LONG)
    os.kill(first.pid, signal.SIGKILL)
    wait([waiting], LONG)
    assert isinstance(waiting.exception(), StoreError)
    with pytest.raises(StoreError):
        first.add("n", 1)
    first.close()
    os.kill(second.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(StoreError, match="in time"):
        second.add("n", 1)
    assert time.monotonic() - began >= 0.5
    second.close()


def test_a_store_that_dies_fails_what_waits_for_it() -> None:
    with victim("tcp_store") as process:
        assert process.stdout is not None
        store = join(int(process.stdout.readline()), seconds=10.0)
        assert store.add("n", 1) == 1
        # Its connection is there then: torch tries for long to make one to a store that is gone.
        assert store.wait(["n"], LONG).result(LONG)
        waiting = store.wait(["never"], LONG)
        process.kill()
        process.wait()
        wait([waiting], LONG)
        assert isinstance(waiting.exception(), StoreError)
        with pytest.raises(StoreError):
            store.add("n", 1)
        store.close()


def test_an_interpreter_that_is_none_is_no_helper() -> None:
    with pytest.raises(StoreError, match="no helper"):
        C10dStore("/nonexistent/python", {}, ("127.0.0.1", 1))
