"""Counts that are exact: at bounds, beyond the limit of scopes, and read while they change."""

from __future__ import annotations

import functools
import math
import operator
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.children import waiting
from support.rig import Rig
from timers.events import Outcome
from timers.server.statistics import (
    DUMP_LABELS,
    DURATION_BUCKETS,
    LATENESS_BUCKETS,
    OTHER,
    RATIO_BUCKETS,
    REJECTION_REASONS,
    Histogram,
    Statistics,
)
from timers.transport.wire import Message


@pytest.mark.parametrize("bounds", [DURATION_BUCKETS, RATIO_BUCKETS, LATENESS_BUCKETS])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))
    assert bounds[0] > 0


@given(st.lists(st.floats(0, 2000), max_size=50))
def test_a_histogram_counts_as_prometheus_does(values: list[float]) -> None:
    histogram = Histogram(DURATION_BUCKETS)
    for value in values:
        histogram.observe(value)
    cumulative = 0
    for bound, count in zip([*DURATION_BUCKETS, math.inf], histogram.counts, strict=True):
        cumulative += count
        assert cumulative == sum(value <= bound for value in values)
    assert histogram.total == functools.reduce(operator.add, values, 0.0)
    assert histogram.exemplars == {}


def test_a_bound_includes_its_own_value() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (1.0, 2.0, math.nextafter(2.0, 3.0)):
        histogram.observe(value)
    assert histogram.counts == [1, 1, 1]


def test_the_last_traced_value_of_each_bucket_is_kept() -> None:
    histogram = Histogram((1.0, 2.0))
    before = time.time()
    for value, traceparent in ((0.5, "a"), (0.6, "b"), (0.7, None), (9.0, "c")):
        histogram.observe(value, traceparent)
    found = {index: (name, value) for index, (name, value, _) in histogram.exemplars.items()}
    assert found == {0: ("b", 0.6), 2: ("c", 9.0)}
    assert all(before <= when <= time.time() for _, _, when in histogram.exemplars.values())
    assert sum(histogram.counts) == 4


def test_everything_known_starts_at_zero() -> None:
    statistics = Statistics()
    assert statistics.requests == statistics.workers == 0
    assert statistics.rejected == dict.fromkeys(REJECTION_REASONS, 0)
    assert set(statistics.dumps) == set(DUMP_LABELS)
    assert statistics.scopes == {}
    scope = statistics.scope("x")
    assert (scope.acquires, scope.releases, scope.expirations, scope.active) == (0, 0, 0, 0)
    assert scope.reaps == dict.fromkeys(Outcome, 0)


def test_a_scope_is_counted_by_its_name_until_there_are_too_many() -> None:
    statistics = Statistics(max_scopes=2)
    first, second = statistics.scope("a"), statistics.scope("b")
    assert statistics.scope("a") is first
    other = statistics.scope("c")
    assert statistics.scope("d") is other
    assert statistics.scope(OTHER) is other
    assert statistics.scope("b") is second
    assert list(statistics.scopes) == ["a", "b", OTHER]
    assert len({id(found) for found in (first, second, other)}) == 3


def test_no_scope_at_all_may_be_named() -> None:
    statistics = Statistics(max_scopes=0)
    statistics.scope("a").acquires += 1
    statistics.scope("b").acquires += 1
    assert list(statistics.scopes) == [OTHER]
    assert statistics.scopes[OTHER].acquires == 2


def test_a_scope_that_is_called_other_is_among_the_others() -> None:
    statistics = Statistics(max_scopes=1)
    assert statistics.scope(OTHER) is statistics.scope("overflow")
    assert list(statistics.scopes) == [OTHER]


def test_dumps_are_counted_by_method_and_outcome() -> None:
    statistics = Statistics()
    statistics.dumped("py-spy", ok=True, seconds=0.25)
    statistics.dumped("py-spy", ok=True, seconds=0.5, traceparent="t")
    statistics.dumped("gdb", ok=False, seconds=1.0)
    assert statistics.dumps["py-spy", "ok"].total == 0.75
    assert sum(statistics.dumps["py-spy", "ok"].counts) == 2
    assert [found[0] for found in statistics.dumps["py-spy", "ok"].exemplars.values()] == ["t"]
    assert statistics.dumps["gdb", "failed"].total == 1.0
    assert statistics.dumps["proc", "failed"].total == 0


def test_a_reader_never_sees_a_dictionary_change_its_size() -> None:
    statistics = Statistics(max_scopes=3000)
    failures: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                for scope in statistics.scopes.values():
                    assert scope.acquires in (0, 1)
                for dump in statistics.dumps.values():
                    assert sum(dump.counts) in (0, 1)
        except Exception as error:  # noqa: BLE001  # shown below
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(1500):
        statistics.scope(f"scope {number}").acquires += 1
        if number % 10 == 0:
            statistics.dumped(f"method {number}", ok=True, seconds=0.1)
    done.set()
    thread.join()
    assert failures == []
    assert len(statistics.scopes) == 1500


def test_every_request_of_several_threads_is_counted() -> None:
    # The server's own way in, from many threads at once: exact, not nearly.
    rig = Rig(wants_requests=False)
    rounds, threads_count = 500, 6
    with waiting() as pid:

        def work(thread: int) -> None:
            for number in range(rounds):
                scope = f"scope {number % 300}"  # a hundred more than are counted by name
                acquire = Message(pid, scope, rig.clock.time() + 60, 9, thread=thread)
                release = Message(pid, scope, -1, 0, thread=thread)
                rig.watchdog.apply([acquire])
                rig.watchdog.apply([release, acquire, release])

        threads = [threading.Thread(target=work, args=(n,)) for n in range(threads_count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    statistics = rig.watchdog.statistics
    blocks = 2 * rounds * threads_count
    assert statistics.requests == 2 * blocks
    scopes = statistics.scopes
    assert len(scopes) == 201
    assert sum(scope.acquires for scope in scopes.values()) == blocks
    assert sum(scope.releases for scope in scopes.values()) == blocks
    assert sum(sum(scope.durations.counts) for scope in scopes.values()) == blocks
    assert sum(sum(scope.ratios.counts) for scope in scopes.values()) == blocks
    assert [scope.active for scope in scopes.values()] == [0] * 201
    assert scopes[OTHER].acquires > 0
    rig.close()
