"""The engine by an actor: a store like any other, of which nothing is taken on trust."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from hangs.simulated import IN_ALL_REDUCE, looking, view
from observability.fleet._store import StoreError
from observability.fleet.exchange import Exchange, Shared
from observability.fleet.ray import RayStore, ray_engine
from observability.ray._meeting import Meeting
from support.ray_actors import Handle, fake_ray

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 30.0


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    monkeypatch.setitem(sys.modules, "ray", fake_ray())
    handle = Handle(Meeting())
    yield handle
    handle.close()


def test_it_is_a_store(meeting: Handle) -> None:
    store = RayStore(meeting, seconds=LONG)
    assert [store.add("n", 2), store.add("n", 0)] == [2, 2]
    store.set("a", "1")
    assert [store.set_first("a", "2"), store.set_first("b", "3")] == ["1", "3"]
    assert store.get(["a", "b", "c"]) == ["1", "3", None]
    waiting = store.wait(["a", "later"], LONG)
    assert not waiting.done()
    store.set("later", "")
    assert waiting.result(LONG) is True
    assert store.wait(["never"], 0.01).result(LONG) is False
    store.delete(["a", "c"])
    assert store.get(["a"]) == [None]


def test_an_actor_that_is_gone_is_a_store_that_is_gone(meeting: Handle) -> None:
    store = RayStore(meeting)
    meeting.is_dead = True
    for call in (
        lambda: store.add("n", 1),
        lambda: store.get(["n"]),
        lambda: store.wait(["n"], 1),
    ):
        with pytest.raises(StoreError, match="RuntimeError: the actor is dead"):
            call()


def test_what_it_refuses_fails_the_call(meeting: Handle) -> None:
    store = RayStore(meeting, seconds=LONG)
    with pytest.raises(StoreError, match="too long"):
        store.set("k" * 300, "")
    with pytest.raises(StoreError, match="too many waits"):
        store.wait(["x"] * 2000, 1).result(LONG)


class Liar:
    """An actor that answers with something else."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def add(self, *_: object) -> Any:
        return self.answer

    get = set_first = wait = add


@pytest.mark.parametrize("answer", [None, "text", [1, 2], {"a": 1}, [[]], 3.5])
def test_what_is_no_answer_is_not_used(meeting: Handle, answer: Any) -> None:
    meeting.actor = Liar(answer)
    store = RayStore(meeting, seconds=LONG)
    with pytest.raises(StoreError, match="something else"):
        store.add("n", 1)
    if isinstance(answer, list) and len(answer) == 1:
        assert store.get(["a"]) == [None]
    else:
        with pytest.raises(StoreError, match="something else"):
            store.get(["a"])
    assert store.set_first("a", "b") in ("", "text")
    assert store.wait(["a"], 1).result(LONG) is False


def test_two_nodes_agree_on_one_report(meeting: Handle) -> None:
    """The protocol itself is tried with each store alike: ``test_exchange.py``."""
    hosts = [Exchange(RayStore(meeting, seconds=LONG), host=f"node{i}") for i in range(2)]
    for host in hosts:
        host.join()
    called = hosts[0].announce(LONG)
    waiting = hosts[1].wait_for_call(LONG)
    assert waiting.result(LONG)
    heard = hosts[1].take_call()
    assert called is not None
    assert heard is not None
    assert (called.is_mine, heard.is_mine) == (True, False)
    until = time.monotonic() + LONG
    shared: dict[int, Shared | None] = {}

    def share(index: int) -> None:
        call = (called, heard)[index]
        views = [view(index, looking(7 + index, IN_ALL_REDUCE), host=f"node{index}")]
        shared[index] = hosts[index].share(call, views, 2, collect_until=until, until=until)

    threads = [threading.Thread(target=share, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    first, second = shared[0], shared[1]
    assert first is not None
    assert second is not None
    assert first.report.sentence == second.report.sentence
    assert first.report.hosts == 2
    assert [first.counts, second.counts].count(True) == 1


def test_the_job_is_there_as_long_as_the_node(meeting: Handle) -> None:
    engine = ray_engine(meeting, address="10.0.0.1:6379", run_id="01", raylet=os.getpid())
    job = engine.find()
    assert job is not None
    assert (job.host, job.port, job.run_id, job.pid) == ("10.0.0.1", 6379, "01", os.getpid())
    assert job.start_time is not None
    assert isinstance(engine.open_store(job), RayStore)
    assert ray_engine(meeting, address="x", run_id="", raylet=1).find() is not None
