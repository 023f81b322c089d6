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

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from observability.untrusted import number, printable
from timers.server.statistics import NEAR_MISS, WARM_UP_USES

from ._files import seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ScopeAdvice", "advise", "render_advice"]

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
_NICE = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def _are_many(overran: float, others: float) -> bool:
    return overran > MANY_OVERRAN * (overran + others)


@dataclass(slots=True)
class _Durations:
    """Durations, exact ones and those that are known to lie between two bounds."""

    exact: list[float] = field(default_factory=list)
    bounded: list[tuple[float, float, int]] = field(default_factory=list)
    """Lower and upper bound, and count."""
    largest: float = 0.0
    overran: list[float] = field(default_factory=list)
    """Exact ones beyond their deadline: hangs, unless there are many."""

    def judge_overrun(self) -> None:
        """Count those that overran as work, when they are more than a hang would explain."""
        if _are_many(len(self.overran), self.count):
            for value in self.overran:
                self.add(value)

    def add(self, value: float) -> None:
        self.exact.append(value)
        self.largest = max(self.largest, value)

    @property
    def count(self) -> int:
        return len(self.exact) + sum(count for _, _, count in self.bounded)

    def quantile(self, share: float) -> float:
        """Return the smallest value that at least ``share`` of the durations do not exceed.

        Between two bounds they are taken to lie evenly.
        """
        together: Counter[tuple[float, float]] = Counter()
        for lower, upper, count in self.bounded:
            together[lower, upper] += count
        together.update((value, value) for value in self.exact)
        wanted = math.ceil(share * self.count)
        for (lower, upper), count in sorted(together.items()):
            if wanted <= count:
                highest = min(upper, self.largest)
                lowest = min(lower, highest)
                return lowest + (highest - lowest) * wanted / count
            wanted -= count
        return self.largest


@dataclass(slots=True)
class _Scope:
    warm_up: _Durations = field(default_factory=_Durations)
    steady: _Durations = field(default_factory=_Durations)
    afters: Counter[float] = field(default_factory=Counter)
    near_misses: int = 0
    expirations: int = 0


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


def advise(events: Iterable[dict[str, Any]]) -> list[ScopeAdvice]:
    """Suggest a deadline for each scope of which durations are known, by name.

    :param events: of one run, in the order of their time.
    """
    scopes: defaultdict[str, _Scope] = defaultdict(_Scope)
    uses: Counter[tuple[str, str, str]] = Counter()
    summaries: dict[tuple[str, str, str], dict[str, Any]] = {}
    expirations: Counter[str] = Counter()
    events = list(events)
    hangs = _hangs(events)
    for event in events:
        name = event["event"]
        if name == "timer released":
            _released(event, scopes, uses, hangs)
        elif name == "timer expired" and isinstance(event.get("scope_id"), str):
            expirations[event["scope_id"]] += 1
        elif name == "scope durations":
            summaries |= {
                (str(event.get("host")), str(event.get("server")), entry["scope_id"]): entry
                for entry in _entries(event)
            }
    known = frozenset(scopes)
    for entry in summaries.values():
        # Exact ones are better than the same ones counted by bucket.
        if entry["scope_id"] not in known:
            _summarised(entry, scopes)
    for scope in scopes.values():
        scope.warm_up.judge_overrun()
        scope.steady.judge_overrun()
    for scope_id, count in expirations.items():
        if scope_id in scopes:
            scopes[scope_id].expirations = max(scopes[scope_id].expirations, count)
    return [
        _advice(scope_id, scope)
        for scope_id, scope in sorted(scopes.items())
        if scope.steady.count or scope.warm_up.count
    ]


def _entries(event: dict[str, Any]) -> list[dict[str, Any]]:
    scopes = event.get("scopes")
    return [
        entry
        for entry in (scopes if isinstance(scopes, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("scope_id"), str)
    ]


def _hangs(events: Iterable[dict[str, Any]]) -> list[float]:
    """Return when timers expired, in seconds since the epoch, in order."""
    moments = (seconds(event) for event in events if event["event"] == "timer expired")
    return sorted(moment for moment in moments if moment is not None)


def _was_under_way(moments: Sequence[float], end: float | None, elapsed: float) -> bool:
    if end is None:
        return False
    following = bisect_left(moments, end - elapsed)
    return following < len(moments) and moments[following] < end


def _released(
    event: dict[str, Any],
    scopes: defaultdict[str, _Scope],
    uses: Counter[tuple[str, str, str]],
    hangs: Sequence[float],
) -> None:
    scope_id, elapsed = event.get("scope_id"), _number(event.get("elapsed_seconds"))
    if not isinstance(scope_id, str) or elapsed is None:
        return
    if event.get("error"):  # It was cut short by an exception, which says nothing about the work.
        return
    after = _number(event.get("after_seconds"))
    scope = scopes[scope_id]
    overran = after is not None and 0 < after <= elapsed
    if not overran and _was_under_way(hangs, seconds(event), elapsed):
        return
    worker = (str(event.get("host")), str(event.get("worker_pid")), scope_id)
    uses[worker] += 1
    durations = scope.warm_up if uses[worker] <= WARM_UP_USES else scope.steady
    if overran:
        durations.overran.append(elapsed)
    else:
        durations.add(elapsed)
    if after is not None and after > 0:
        scope.afters[after] += 1
        scope.near_misses += NEAR_MISS <= elapsed / after < 1


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
        upper = min(bound or 0.0, after)
        if count and count > 0 and lower < after:
            durations.bounded.append((min(lower, upper), upper, int(count)))
            known = largest is not None and largest < after
            reached = largest if known and largest is not None else upper
            durations.largest = max(durations.largest, reached)
        lower = max(lower, bound or 0.0)


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
