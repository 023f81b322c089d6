"""The summary of a scope says what the single events would have said."""

from __future__ import annotations

from observability.report._deadlines import Advice
from observability.scope_durations import scope_durations
from timers.server.statistics import Statistics


def test_a_block_that_overran_is_no_near_miss() -> None:
    statistics = Statistics()
    scope = statistics.scope("step")
    scope.after_seconds = 10.0
    for number, used in enumerate((0.5, 0.79, 0.85, 0.99, 1.2, 3.0)):
        scope.took(used * 10, first=number < 1, traceparent=None)
        scope.ratios.observe(used)
    (event,) = scope_durations(statistics, "run-1")
    (entry,) = event.scopes
    assert entry["near_misses"] == 2
    assert (entry["warm_up"]["count"], entry["steady"]["count"]) == (1, 5)
    assert (entry["warm_up"]["max_seconds"], entry["steady"]["max_seconds"]) == (5.0, 30.0)
    found = Advice()
    found.take({"event": event.name, "scopes": [entry]})
    (advice,) = found.scopes()
    assert advice.near_misses == 2
