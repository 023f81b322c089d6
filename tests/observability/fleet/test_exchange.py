"""The protocol of a roll call: one report for all, in time, whoever answers and whatever comes."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hangs.simulated import IN_ALL_REDUCE, OUTER, looking, view
from observability.fleet import exchange
from observability.fleet._messages import MAX_CALL, packed
from observability.fleet.exchange import Exchange, Shared
from observability.hang.types import Verdict
from support.memory_store import MemoryStore
from support.waiting import eventually
from timers.stacks.take import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from observability.fleet.exchange import RollCall
    from observability.samples.types import WorkerView

FETCHING = (Frame("fetch_shard", "/job/data.py", 88), *OUTER)
LONG = 30.0


def rank(number: int, *, stuck: bool = False) -> WorkerView:
    """Of a job with two ranks on a host."""
    frames = FETCHING if stuck else IN_ALL_REDUCE
    looks = [looking(1000 + number, frames, at=at, cpu=2.0) for at in (0.0, 50.0)]
    return view(number, *looks, host=f"node{number // 2}", expired=not stuck)


class Host:
    """One of the hosts of a job of six ranks; rank 4 is stuck."""

    def __init__(self, store: MemoryStore, number: int) -> None:
        self.refused: list[tuple[str, str]] = []
        self.ranks = (2 * number, 2 * number + 1)
        self.exchange = Exchange(
            store,
            host=f"node{number}",
            ranks=self.ranks,
            refuse=lambda reason, detail: self.refused.append((reason, detail)),
        )
        self.exchange.join()
        self.shared: Shared | None = None
        self.call: RollCall | None = None

    def take_part(self, *, seconds: float = LONG, collect: float = LONG) -> None:
        """Call, or answer the call that is there."""
        self.call = self.exchange.announce(seconds)
        assert self.call is not None
        now = time.monotonic()
        views = [rank(number, stuck=number == 4) for number in self.ranks]
        self.shared = self.exchange.share(
            self.call, views, 6, collect_until=now + collect, until=now + seconds
        )

    def confirm(self) -> None:
        """Say that the report is known here, and wait for the others."""
        assert self.shared is not None
        assert self.shared.number is not None
        self.exchange.confirm(self.shared.number, time.monotonic() + LONG)


def together(hosts: Sequence[Host], **bounds: float) -> None:
    threads = [threading.Thread(target=host.take_part, kwargs=bounds) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_all_hosts_have_one_report_and_one_of_them_counts_it(store: MemoryStore) -> None:
    hosts = [Host(store, number) for number in range(3)]
    together(hosts)
    found = [host.shared for host in hosts if host.shared is not None]
    assert len(found) == 3
    assert [suspect.rank for suspect in found[0].report.suspects] == [4]
    assert "fetch_shard" in found[0].report.sentence
    assert len({shared.report.sentence for shared in found}) == 1
    assert [shared.counts for shared in found] == [False, False, True]  # where the suspect is
    assert [host.call.is_mine for host in hosts if host.call].count(True) == 1
    assert {host.call.number for host in hosts if host.call} == {1}
    assert not any(host.exchange.tidy() for host in hosts)
    assert not any(key.startswith("part/") for key in store.texts)  # nothing piles up
    together(hosts)  # and again
    assert {host.call.number for host in hosts if host.call} == {2}


def test_a_host_that_is_silent_is_named_and_waited_for_no_longer_than_the_bound(
    store: MemoryStore,
) -> None:
    hosts = [Host(store, number) for number in range(3)]
    together(hosts[:2], collect=0.3)
    assert hosts[0].shared is not None
    assert hosts[0].shared.report.unheard == ("node2 (ranks 4-5) is silent",)
    assert hosts[0].shared.report.missing_ranks == (4, 5)
    assert hosts[0].shared.report.suspects == ()
    assert "node2" in hosts[0].shared.report.sentence


def test_a_host_that_has_left_is_not_missed(store: MemoryStore) -> None:
    hosts = [Host(store, number) for number in range(3)]
    gone = Host(store, 7)
    gone.exchange.leave()
    together(hosts)
    assert hosts[0].shared is not None
    assert hosts[0].shared.report.unheard == ()


def test_the_ranks_of_a_host_that_was_replaced_are_not_waited_for(store: MemoryStore) -> None:
    old = Host(store, 2)
    hosts = [Host(store, number) for number in range(3)]
    together(hosts)
    assert old.shared is None
    assert hosts[0].shared is not None
    assert hosts[0].shared.report.unheard == ()


def test_a_host_of_another_version_is_named_as_such(store: MemoryStore) -> None:
    hosts = [Host(store, number) for number in range(3)]
    hosts[0].call = hosts[0].exchange.announce(LONG)
    store.add("given/1", 1)
    store.set("part/1/1", json.dumps({"v": 2, "host": "node2", "new": True}))
    now = time.monotonic()
    assert hosts[0].call is not None
    shared = hosts[0].exchange.share(
        hosts[0].call, [rank(0), rank(1)], 6, collect_until=now + 0.1, until=now + LONG
    )
    assert shared is not None
    assert any("node2 runs version 2" in each for each in shared.report.unheard)
    assert hosts[0].refused[0][0] == "unsupported_version"


def test_a_roll_call_of_another_version_is_answered_with_what_this_one_has(
    store: MemoryStore,
) -> None:
    host = Host(store, 0)
    store.set("call/1", json.dumps({"v": 7, "host": "node9"}))
    call = host.exchange.take_call()
    assert call is not None
    host.exchange.hand_over(call, [rank(0)], 6)
    assert json.loads(store.texts["part/1/1"])["host"] == "node0"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not_json"),
        ("[" * 100_000, "too_long"),
        ("[]", "not_an_object"),
        (packed({"host": "a", "watchdog": "b", "seconds": "5"}), "out_of_range"),
        (packed({"host": "a", "watchdog": "b", "seconds": 1e300}), "out_of_range"),
        (packed({"host": 5, "watchdog": "b", "seconds": 5}), "wrong_type"),
        (packed({"host": "a" * (MAX_CALL - 200), "watchdog": "b", "seconds": 5}), "too_long"),
    ],
)
def test_what_is_no_roll_call_is_counted_and_calls_nobody(
    store: MemoryStore, text: str, reason: str
) -> None:
    host = Host(store, 0)
    store.set("call/1", text)
    assert host.exchange.take_call() is None
    assert [each for each, _ in host.refused] == [reason]
    store.set("call/2", packed({"host": "a", "watchdog": "b", "seconds": 5}))
    assert host.exchange.take_call() is not None  # the next one is heard


def test_a_part_that_speaks_for_the_ranks_of_another_host_is_refused(store: MemoryStore) -> None:
    hosts = [Host(store, number) for number in range(3)]
    liar = Exchange(store, host="liar", ranks=(0,))
    call = hosts[0].exchange.announce(LONG)
    assert call is not None
    liar.hand_over(call, [replace(rank(0, stuck=True), host="node0")], 6)
    for host in hosts[1:]:
        views = [rank(number, stuck=number == 4) for number in host.ranks]
        host.exchange.hand_over(call, views, 6)
    now = time.monotonic()
    shared = hosts[0].exchange.share(
        call, [rank(0), rank(1)], 6, collect_until=now + LONG, until=now + LONG
    )
    assert shared is not None
    assert [suspect.rank for suspect in shared.report.suspects] == [4]
    assert [reason for reason, _ in hosts[0].refused] == ["identity_mismatch"]


@pytest.mark.parametrize("count", ["hosts", "given/1"])
def test_a_count_that_somebody_made_up_costs_no_more_than_the_bound(
    store: MemoryStore, count: str
) -> None:
    hosts = [Host(store, number) for number in range(3)]
    store.add(count, 1 << 40)
    together(hosts[:1], collect=0.3, seconds=LONG)
    assert hosts[0].shared is not None
    assert hosts[0].shared.report.workers == 2


def test_a_report_that_is_none_leaves_a_host_with_its_own(store: MemoryStore) -> None:
    caller, other = Host(store, 0), Host(store, 1)
    assert caller.exchange.announce(LONG) is not None
    store.set("report/1", packed({"counts": "x", "report": {"verdict": "guilty"}}))
    other.take_part()
    assert other.shared is None
    assert [reason for reason, _ in other.refused] == ["out_of_range"]


def test_a_caller_that_dies_is_waited_for_no_longer_than_the_bound(store: MemoryStore) -> None:
    caller, other = Host(store, 0), Host(store, 1)
    assert caller.exchange.announce(LONG) is not None
    other.take_part(seconds=0.3)
    assert other.call is not None
    assert (other.call.is_mine, other.shared) == (False, None)


def test_a_host_goes_on_when_all_have_made_the_report_known(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_SEEN_SECONDS", LONG)
    hosts = [Host(store, number) for number in range(3)]
    together(hosts)
    going_on = [threading.Thread(target=host.confirm) for host in hosts[:2]]
    for thread in going_on:
        thread.start()
    eventually(lambda: store.texts.get("seen/1") == "2", "two have made it known")
    assert all(thread.is_alive() for thread in going_on)
    hosts[2].confirm()
    for thread in going_on:
        thread.join(LONG)
        assert not thread.is_alive()


@pytest.mark.parametrize("dies", [False, True], ids=["a host that is silent", "a store that dies"])
def test_the_others_are_waited_for_within_the_bound(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, *, dies: bool
) -> None:
    monkeypatch.setattr(exchange, "_SEEN_SECONDS", LONG if dies else 0.2)
    hosts = [Host(store, number) for number in range(3)]
    together(hosts)
    going_on = threading.Thread(target=hosts[0].confirm)
    going_on.start()
    eventually(lambda: "seen/1" in store.texts, "it has said so")
    if dies:
        store.die()
    going_on.join(LONG)
    assert not going_on.is_alive()


def test_who_is_called_and_expires_before_it_has_answered_joins_that_call(
    store: MemoryStore,
) -> None:
    caller, other = Host(store, 0), Host(store, 1)
    first = caller.exchange.announce(LONG)
    taken = other.exchange.take_call()
    assert first is not None
    assert taken is not None
    assert other.exchange.announce(LONG) == taken
    assert "call/2" not in store.texts


def test_waiting_costs_the_store_nothing(store: MemoryStore) -> None:
    host = Host(store, 0)
    waiting = host.exchange.wait_for_call(LONG)
    calls = store.calls
    Host(store, 1).exchange.announce(LONG)
    assert waiting.result(LONG) is True
    assert calls == 4  # it joins, and waits once
    eventually(lambda: host.exchange.take_call() is not None, "the roll call")


def test_whom_no_rank_accuses_counts_where_it_was_called(store: MemoryStore) -> None:
    hosts = [Host(store, number) for number in range(2)]
    together(hosts, collect=0.3)
    found = [host.shared for host in hosts if host.shared is not None]
    assert {shared.report.verdict for shared in found} == {Verdict.COMMON_WAIT}
    assert [shared.counts for shared in found] == [
        host.call.is_mine for host in hosts if host.call is not None
    ]
