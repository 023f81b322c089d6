"""Deadlines suggested from the durations that a run has seen.

Durations come from two kinds of events:

``timer released`` (level debug)
    ``scope_id``, ``elapsed_seconds``, ``after_seconds``, and who it was. Exact.
``scope durations`` (a summary, written at each hang and when the server stops)
    ``scopes``: a list with, for each scope, ``scope_id``, ``after_seconds`` (the last one asked
    for), ``near_misses``, ``expirations``, and for ``warm_up`` and ``steady`` each a histogram:
    ``count``, ``max_seconds``, ``bounds`` (seconds, rising) and ``counts`` (one more than bounds).
    Counted since the server started, so the last one of a server and scope replaces earlier ones.

Hangs are no measure, either. Uses that exceeded their deadline are left out unless there are many,
which says that the deadline is too short; and so is one that was under way when a timer of the run
expired: it may have waited for the worker that hung.

The first uses of a scope by a worker are its warm-up: compilation, caches that are still empty,
connections to be made. They are no measure for what comes after.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from observability.untrusted import items, number, printable
from timers.server.statistics import NEAR_MISS, WARM_UP_USES

from ._files import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

FEW = 20
"""With fewer durations than this, the tail is unknown and the margin is doubled."""
MARGIN_OVER_MAX = 2.0
MARGIN_OVER_P99 = 3.0
MANY_OVERRAN = 0.1
"""When more than this share of the uses exceeds a deadline, it is the deadline that is wrong."""
SHORTEST = 1.0
"""Seconds. Below this, a busy machine's scheduler would be what is measured."""
TOO_LONG = 20.0
"""From this many times the suggestion on, a deadline finds a hang too late to be of use."""
MAX_SCOPES = 10_000
_LONGEST = 100
"""Uses of a scope that are judged by when they were; a hang makes those that waited long ones."""
_STEPS = 100
"""Into which the durations between two bounds are spread, at most."""
_RATIO = 1.005
_INSTANT = 1e-9
_NICE = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def _are_many(overran: float, others: float) -> bool:
    return overran > MANY_OVERRAN * (overran + others)


class _Durations:
    """Durations, or upper bounds of them, in buckets of half a percent, whatever their number."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._tops: dict[int, float] = {}
        """The largest value of each bucket, which stands for all of it."""
        self.largest = 0.0

    def add(self, value: float, count: int = 1) -> None:
        bucket = math.ceil(math.log(max(value, _INSTANT), _RATIO))
        self._counts[bucket] += count
        self._tops[bucket] = max(self._tops.get(bucket, 0.0), value)
        self.largest = max(self.largest, value)

    @property
    def count(self) -> int:
        return self._counts.total()

    def merge(self, other: _Durations) -> None:
        for bucket, count in other._counts.items():
            self.add(other._tops[bucket], count)

    def quantile(self, share: float) -> float:
        """A value that at least ``share`` of the durations do not exceed, and hardly more do."""
        wanted = math.ceil(share * self.count)
        for bucket, count in sorted(self._counts.items()):
            wanted -= count
            if wanted <= 0:
                return min(self._tops[bucket], self.largest)
        return self.largest


@dataclass(slots=True)
class _Scope:
    warm_up: _Durations = field(default_factory=_Durations)
    steady: _Durations = field(default_factory=_Durations)
    afters: Counter[float] = field(default_factory=Counter)
    overran: _Durations = field(default_factory=_Durations)
    """Uses beyond their deadline: hangs, unless there are many."""
    longest: list[tuple[float, float]] = field(default_factory=list)
    """The longest steady uses: how long, and when they ended."""
    near_misses: int = 0
    expirations: int = 0
    first: dict[tuple[str, str], list[tuple[float, int, float]]] = field(default_factory=dict)
    """Of each worker the first uses: when, in which order read, how long."""

    def judge(self, hangs: Sequence[int]) -> None:
        """Count the uses that were kept apart, but for those that a hang explains."""
        for elapsed, end in self.longest:
            if not _was_under_way(hangs, end, elapsed):
                self.steady.add(elapsed)
        for first in self.first.values():
            for minus_end, _, elapsed in first:
                if not _was_under_way(hangs, -minus_end, elapsed):
                    self.warm_up.add(elapsed)
        if _are_many(self.overran.count, self.steady.count + self.warm_up.count):
            self.steady.merge(self.overran)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeAdvice:
    """What was seen of one scope, and what follows."""

    scope_id: str
    count: int
    """Uses after the warm-up."""
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float
    max_seconds: float
    warm_up_count: int
    warm_up_max_seconds: float
    near_misses: int
    """Uses that took 80 % of their deadline or more, without expiring."""
    expirations: int
    after_seconds: float | None
    """The deadline in use: the most frequent one."""
    suggested_seconds: float
    warm_up_suggested_seconds: float | None
    """Set where the warm-up needs a deadline of its own."""
    reasoning: str
    too_few: bool = False
    """Whether so little was seen that the suggestion is a guess."""
    warning: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        known = asdict(self)
        return {name: value for name, value in known.items() if value is not None}


class Advice:
    """Suggests deadlines from the durations in the events of one run, in any order."""

    def __init__(self) -> None:
        self._scopes: defaultdict[str, _Scope] = defaultdict(_Scope)
        self._summaries: dict[tuple[str, str, str], tuple[float, dict[str, Any]]] = {}
        self._expirations: Counter[str] = Counter()
        self._hangs: set[int] = set()
        """Seconds in which timers expired."""
        self._taken = itertools.count()
        self.left_out = 0
        """Uses of scopes beyond :data:`MAX_SCOPES`, which nobody would read about."""

    def take(self, event: dict[str, Any]) -> None:
        """Take note of ``event``, if it says how long something took."""
        name = event["event"]
        if name == "timer released":
            self._released(event)
        elif name == "timer expired" and isinstance(event.get("scope_id"), str):
            self._expirations[event["scope_id"]] += 1
            self._hangs.add(int(seconds(event) or 0.0))
        elif name == "scope durations":
            at = seconds(event) or 0.0
            for entry in _entries(event):
                key = (str(event.get("host")), str(event.get("server")), entry["scope_id"])
                if key not in self._summaries or at >= self._summaries[key][0]:
                    self._summaries[key] = (at, entry)

    def _released(self, event: dict[str, Any]) -> None:
        scope_id, elapsed = event.get("scope_id"), _number(event.get("elapsed_seconds"))
        if not isinstance(scope_id, str) or elapsed is None:
            return
        if event.get("error"):  # It was cut short by an exception: that is not how long it takes.
            return
        if scope_id not in self._scopes and len(self._scopes) >= MAX_SCOPES:
            self.left_out += 1
            return
        scope = self._scopes[scope_id]
        after = _number(event.get("after_seconds"))
        if after is not None and after > 0:
            scope.afters[after] += 1
            scope.near_misses += NEAR_MISS <= elapsed / after < 1
            if elapsed >= after:
                scope.overran.add(elapsed)
                return
        worker = (str(event.get("host")), str(event.get("worker_pid")))
        first = scope.first.setdefault(worker, [])
        # Files may be read in any order: the latest of more than the warm-up has was none.
        heapq.heappush(first, (-(seconds(event) or 0.0), -next(self._taken), elapsed))
        if len(first) > WARM_UP_USES:
            minus_end, _, took = heapq.heappop(first)
            heapq.heappush(scope.longest, (took, -minus_end))
            if len(scope.longest) > _LONGEST:
                scope.steady.add(heapq.heappop(scope.longest)[0])

    def scopes(self) -> list[ScopeAdvice]:
        """Suggest a deadline for each scope of which durations are known, by name; once."""
        hangs = sorted(self._hangs)
        for scope in self._scopes.values():
            scope.judge(hangs)
        known = frozenset(self._scopes)
        for _, entry in self._summaries.values():
            # Exact ones are better than the same ones counted by bucket.
            if entry["scope_id"] not in known:
                _summarised(entry, self._scopes)
        for scope_id, count in self._expirations.items():
            if scope_id in self._scopes:
                scope = self._scopes[scope_id]
                scope.expirations = max(scope.expirations, count)
        return [
            _advice(scope_id, scope)
            for scope_id, scope in sorted(self._scopes.items())
            if scope.steady.count or scope.warm_up.count
        ]


def _was_under_way(hangs: Sequence[int], end: float, elapsed: float) -> bool:
    following = bisect_left(hangs, end - elapsed)
    return following < len(hangs) and hangs[following] < end


def _entries(event: dict[str, Any]) -> list[dict[str, Any]]:
    entries = items(event.get("scopes"), dict)
    return [entry for entry in entries if isinstance(entry.get("scope_id"), str)]


def _summarised(entry: dict[str, Any], scopes: defaultdict[str, _Scope]) -> None:
    scope = scopes[entry["scope_id"]]
    after = _number(entry.get("after_seconds"))
    for name, durations in (("warm_up", scope.warm_up), ("steady", scope.steady)):
        _add_histogram(entry.get(name), durations, after or math.inf)
    if after is not None and after > 0:
        scope.afters[after] += 1
    scope.near_misses += int(_number(entry.get("near_misses")) or 0)
    scope.expirations += int(_number(entry.get("expirations")) or 0)


def _add_histogram(histogram: object, durations: _Durations, after: float) -> None:
    if not isinstance(histogram, dict):
        return
    bounds, counts = histogram.get("bounds"), histogram.get("counts")
    if not isinstance(bounds, list) or not isinstance(counts, list):
        return
    uppers = [_number(bound) for bound in bounds]
    numbers = [_number(count) for count in counts]
    if len(numbers) != len(uppers) + 1 or None in uppers or None in numbers:
        return
    largest = _number(histogram.get("max_seconds"))
    last = largest if largest is not None else max((each or 0.0 for each in uppers), default=0.0)
    beyond = bisect_left([each or 0.0 for each in uppers], after) + 1
    if _are_many(sum(filter(None, numbers[beyond:])), sum(filter(None, numbers[:beyond]))):
        after = math.inf
    lower = 0.0
    for bound, count in zip([*uppers, last], numbers, strict=True):
        upper = min(bound or 0.0, after, math.inf if largest is None else largest)
        if count and count > 0 and lower < after:
            _spread(durations, min(lower, upper), upper, int(count))
        lower = max(lower, bound or 0.0)


def _spread(durations: _Durations, lower: float, upper: float, count: int) -> None:
    """Add durations of which only two bounds are known, as if they lay evenly between them."""
    steps = min(count, _STEPS)
    for step in range(1, steps + 1):
        part = count * step // steps - count * (step - 1) // steps
        durations.add(lower + (upper - lower) * step / steps, part)


def _number(value: object) -> float | None:
    found = number(value)
    return found if found is not None and found >= 0 else None


def _advice(scope_id: str, scope: _Scope) -> ScopeAdvice:
    # A scope that every worker enters once has only a warm-up, which is then what there is.
    seen = scope.steady if scope.steady.count else scope.warm_up
    p99, largest = seen.quantile(0.99), seen.largest
    suggested, reasoning = _suggest(seen.count, p99, largest)
    warm_up = None
    if seen is scope.steady and scope.warm_up.count:
        needed, _ = _suggest(scope.warm_up.count, scope.warm_up.largest, scope.warm_up.largest)
        warm_up = needed if scope.warm_up.largest * MARGIN_OVER_MAX > suggested else None
    if seen is scope.warm_up:
        reasoning += "; only first uses were seen, so this includes the warm-up"
    after = next((value for value, _ in scope.afters.most_common(1)), None)
    return ScopeAdvice(
        scope_id=scope_id,
        count=scope.steady.count,
        p50_seconds=seen.quantile(0.5),
        p90_seconds=seen.quantile(0.9),
        p99_seconds=p99,
        max_seconds=largest,
        warm_up_count=scope.warm_up.count,
        warm_up_max_seconds=scope.warm_up.largest,
        near_misses=scope.near_misses,
        expirations=scope.expirations,
        after_seconds=after,
        suggested_seconds=suggested,
        warm_up_suggested_seconds=warm_up,
        reasoning=reasoning,
        too_few=seen.count < FEW,
        warning=_warning(after, suggested, warm_up, scope, largest),
    )


def _suggest(count: int, p99: float, largest: float) -> tuple[float, str]:
    by_max, by_p99 = MARGIN_OVER_MAX * largest, MARGIN_OVER_P99 * p99
    value, why = max(
        (by_max, f"{MARGIN_OVER_MAX:g} x the longest ({_short(largest)})"),
        (by_p99, f"{MARGIN_OVER_P99:g} x the 99th percentile ({_short(p99)})"),
    )
    if count < FEW:
        value *= 2
        why += f", doubled because only {count} were seen"
    if value < SHORTEST:
        value, why = SHORTEST, why + f", but at least {SHORTEST:g} s"
    nice = _nice(value)
    return nice, why + (", rounded up" if nice != value else "")


def _nice(value: float) -> float:
    """Round up to a number that people would choose."""
    if value >= 60:  # noqa: PLR2004  # from a minute on in multiples of it, or of five
        step = 60.0 if value <= 600 else 300.0 if value <= 7200 else 3600.0  # noqa: PLR2004  # up to ten minutes, up to two hours
        return math.ceil(value / step - 1e-9) * step
    power = 10.0 ** math.floor(math.log10(value))
    return next(nice * power for nice in _NICE if nice * power >= value * (1 - 1e-9))


def _warning(
    after: float | None, suggested: float, warm_up: float | None, scope: _Scope, largest: float
) -> str | None:
    if after is None:
        return None
    needed = max(suggested, warm_up or 0.0)
    if after > TOO_LONG * needed:
        return (
            f"after={after:g} is {after / largest:.0f} times the longest use: "
            "a hang goes unnoticed for that long"
            if largest > 0
            else f"after={after:g} is far longer than any use"
        )
    if scope.expirations or scope.near_misses:
        if after < suggested:
            return f"after={after:g} is too short: uses come close to it or exceed it"
        return None
    if after < MARGIN_OVER_MAX / 1.5 * largest:
        return f"after={after:g} leaves little room over the longest use"
    return None


def _short(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"  # noqa: PLR2004  # three significant digits


def render_advice(advice: Sequence[ScopeAdvice]) -> str:
    """A paragraph for each scope."""
    lines = []
    for each in advice:
        lines.append(f"{printable(each.scope_id)}")
        lines.append(
            f"  {each.count} uses: median {_short(each.p50_seconds)}, "
            f"90 % {_short(each.p90_seconds)}, 99 % {_short(each.p99_seconds)}, "
            f"longest {_short(each.max_seconds)}"
            + (f"; {each.near_misses} near misses" if each.near_misses else "")
            + (f"; {each.expirations} expired" if each.expirations else "")
        )
        if each.warm_up_count:
            lines.append(
                f"  warm-up: {each.warm_up_count} uses, longest {_short(each.warm_up_max_seconds)}"
            )
        now = "" if each.after_seconds is None else f" (now {each.after_seconds:g})"
        lines.append(f"  suggested: after={each.suggested_seconds:g}{now}: {each.reasoning}")
        if each.warm_up_suggested_seconds is not None:
            lines.append(
                f"  suggested for the first {WARM_UP_USES} uses: "
                f"after={each.warm_up_suggested_seconds:g}"
            )
        if each.too_few:
            seen = each.count or each.warm_up_count
            lines.append(
                f"  too little was seen: {seen} of at least {FEW} uses, so this is a guess"
            )
        if each.warning:
            lines.append(f"  warning: {each.warning}")
    return "\n".join(lines)
