"""The protocol of a roll call over many hosts, on a store of texts.

The keys, below ``timers/``: ``hosts`` counts those that take part, ``host/I`` says who the I-th is
(an empty text: it has left). ``calls`` counts roll calls; the N-th is announced in ``call/N`` by
whoever comes first. Each host hands its part over as ``part/N/J``, the J-th of ``given/N``. The one
that called puts them together and hands out ``report/N``; ``seen/N`` counts who has made it known.
Then it removes the parts.

Nothing here waits longer than it is given, and no answer is needed for anything but the report.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from observability.hang.report import analyse
from observability.hang.text import listed, rank_ranges
from timers.bounded import left

from ._messages import (
    MAX_PRESENCE,
    MAX_REPORT,
    MAX_SUMMARY,
    VERSION,
    Presence,
    RefusedError,
    RollCallSent,
    packed,
    parse,
    text_of,
)
from ._reports import report_from, report_to
from ._store import StoreError
from ._summary import Reader, to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from observability.hang.types import HangReport
    from observability.samples.types import WorkerView

    from ._store import Store

__all__ = ["Exchange", "RollCall", "Shared", "with_unheard"]

_MOST_HOSTS = 16_384
_MOST_CALLS = 1 << 31
_AT_ONCE = 64
"""Texts that are asked for in one go."""
_PAUSE_SECONDS = 0.02
_PAUSE_EACH_SECONDS = 0.0005
_SEEN_SECONDS = 1.0
"""How long each waits for the others to have made the report known, before it kills."""


@dataclass(frozen=True, slots=True)
class RollCall:
    """One roll call."""

    number: int
    host: str
    """Who called."""
    is_mine: bool
    seconds: float
    """Until the one that called goes on."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What came of it, the same on all hosts that heard of it."""

    report: HangReport
    counts: bool
    """Whether this host is the one that counts it: that of the suspect."""
    number: int | None = None
    """That of the roll call; None for what this host found out alone."""


@dataclass(slots=True)
class _Parts:
    views: list[WorkerView] = field(default_factory=list)
    ranks: set[int | None] = field(default_factory=set)
    """Those of the views."""
    reader: Reader = field(default_factory=Reader)
    given: dict[str, str] = field(default_factory=dict)
    """Which watchdogs have handed over, and their hosts."""
    sizes: set[int] = field(default_factory=set)
    others: dict[str, str] = field(default_factory=dict)
    """Hosts whose part could not be used, and why."""


class Exchange:
    """One host's end of the protocol. Used by one thread at a time.

    :param store: where the texts are.
    :param host: this machine's name.
    :param ranks: those of this host.
    :param refuse: called with the reason and the details for what is not used.
    """

    def __init__(
        self,
        store: Store,
        *,
        host: str,
        ranks: Sequence[int] = (),
        refuse: Callable[[str, str], None] = lambda _reason, _detail: None,
        watchdog: str | None = None,
    ) -> None:
        self._store = store
        self._refuse = refuse
        self.presence = Presence(
            host=host or "unknown", watchdog=watchdog or secrets.token_hex(8), ranks=tuple(ranks)
        )
        self._place = 0
        self._next = 1
        self._open: tuple[RollCall, float] | None = None
        """A roll call of another host that this one has not answered, and until when it may."""
        self._left_over: list[str] = []
        """The parts that were collected, by their keys."""

    # -- take part ------------------------------------------------------------------------------

    def join(self) -> None:
        """Say that this host takes part from now on.

        :raises StoreError: the store is gone.
        """
        self._place = self._store.add("hosts", 1)
        self._store.set(f"host/{self._place}", packed(self.presence.to_plain()))
        self._next = max(1, self._store.add("calls", 0) + 1)

    def leave(self) -> None:
        """Say that this host takes no part any more, as when its job has ended."""
        if self._place:
            self._store.set(f"host/{self._place}", "")

    def wait_for_call(self, seconds: float) -> Future[bool]:
        """Begin to wait for the next roll call."""
        return self._store.wait([f"call/{self._next}"], seconds)

    def take_call(self) -> RollCall | None:
        """Return the next roll call, if it has been announced by now; each once."""
        [text] = self._store.get([f"call/{self._next}"])
        call = self._called(text) if text else None
        if call is not None:
            self._open = call, time.monotonic() + call.seconds
        return call

    def announce(self, seconds: float) -> RollCall | None:
        """Call the roll, or join the one that another host has called just before.

        :param seconds: for how long this host waits for the report.
        :returns: None when what is there is no roll call.
        """
        if self._open is not None and left(self._open[1]) > 0:
            return self._open[0]
        mine = RollCallSent(
            host=self.presence.host, watchdog=self.presence.watchdog, seconds=seconds
        )
        text = self._store.set_first(f"call/{self._next}", packed(mine.to_plain()))
        call = self._called(text)
        if call is not None and call.is_mine:
            self._store.add("calls", 1)
        return call

    def _called(self, text: str) -> RollCall | None:
        number, self._next = self._next, min(self._next + 1, _MOST_CALLS)
        try:
            sent = RollCallSent.from_text(text)
        except RefusedError as error:
            if error.version is None:
                self._refuse(error.reason, f"a roll call: {error}")
                return None
            # Whoever runs another version is to know that this host is there.
            return RollCall(number, f"a host of version {error.version}", False, 0.0)
        is_mine = sent.watchdog == self.presence.watchdog
        return RollCall(number, sent.host, is_mine, sent.seconds)

    # -- the roll call --------------------------------------------------------------------------

    def hand_over(
        self, call: RollCall, views: Sequence[WorkerView], world_size: int | None
    ) -> None:
        """Hand the part of this host over."""
        place = self._store.add(f"given/{call.number}", 1)
        text = to_text(self.presence, views, world_size)
        self._store.set(f"part/{call.number}/{place}", text)

    def share(
        self,
        call: RollCall,
        views: Sequence[WorkerView],
        world_size: int | None,
        *,
        collect_until: float,
        until: float,
    ) -> Shared | None:
        """Hand over, and return the report of all hosts; None when there is none in time.

        :param views: the workers of this host.
        :param collect_until: the moment of time.monotonic() by which the one that called goes on
            with what it has got.
        :param until: the moment by which to be done.
        :raises StoreError: the store is gone.
        """
        if self._open is not None and self._open[0] == call:
            self._open = None
        if call.is_mine:
            return self._collect(call, views, world_size, collect_until)
        self.hand_over(call, views, world_size)
        key = f"report/{call.number}"
        try:
            came = self._store.wait([key], left(until)).result(left(until))
        except TimeoutError:
            came = False
        if not came:
            return None
        [text] = self._store.get([key])
        try:
            return self._read(call, text or "")
        except RefusedError as error:
            self._refuse(error.reason, f"the report of {call.host}: {error}")
            return None

    def _read(self, call: RollCall, text: str) -> Shared:
        plain = parse(text, MAX_REPORT)
        report = report_from(plain.get("report"))
        return Shared(report, text_of(plain, "counts") == self.presence.watchdog, call.number)

    def confirm(self, number: int, until: float) -> None:
        """Say that this host has made a report known, and wait until those that gave a part have.

        What is killed next may be what serves the store, from which others still read. Returns
        when the store is gone.

        :param number: that of the roll call.
        :param until: the moment of time.monotonic() by which to be done; a second is the most.
        """
        bound = min(until, time.monotonic() + _SEEN_SECONDS)
        with contextlib.suppress(StoreError):
            seen = self._store.add(f"seen/{number}", 1)
            # All that gave a part, and the one that called.
            hosts = self._store.add(f"given/{number}", 0) + 1
            while seen < hosts and left(bound) > 0:
                # Thousands that wait are not to keep the store from answering.
                time.sleep(min(max(_PAUSE_SECONDS, hosts * _PAUSE_EACH_SECONDS), left(bound)))
                seen = self._store.add(f"seen/{number}", 0)

    def tidy(self) -> bool:
        """Remove some of what was collected, when nobody waits any more; whether there is more."""
        keys = self._left_over[:_AT_ONCE]
        del self._left_over[:_AT_ONCE]
        if keys:
            self._store.delete(keys)
        return bool(self._left_over)

    # -- the one that called --------------------------------------------------------------------

    def _collect(
        self,
        call: RollCall,
        views: Sequence[WorkerView],
        world_size: int | None,
        collect_until: float,
    ) -> Shared:
        parts = _Parts(views=list(views), ranks={view.worker.rank for view in views})
        parts.given[self.presence.watchdog] = self.presence.host
        if world_size is not None:
            parts.sizes.add(world_size)
        present: dict[str, Presence] = {}
        taken = seen = 0
        while True:
            seen = self._take_presences(present, seen, collect_until)
            taken = self._take_parts(call, parts, taken, collect_until)
            if self._is_complete(parts, present) or left(collect_until) <= 0:
                break
            time.sleep(min(_PAUSE_SECONDS, left(collect_until)))
        [size] = parts.sizes if len(parts.sizes) == 1 else [None]
        report = analyse(parts.views, world_size=size)
        unheard = _unheard(parts, present)
        report = with_unheard(report, unheard)
        host = report.suspects[0].host if report.suspects else ""
        counting = next((who for who, name in parts.given.items() if name == host), None)
        counts_at = counting or self.presence.watchdog
        text = packed({"counts": counts_at, "report": report_to(report)})
        if len(text) <= MAX_REPORT:
            self._store.set(f"report/{call.number}", text)
        self._left_over += [f"part/{call.number}/{place}" for place in range(1, taken + 1)]
        return Shared(report, counts_at == self.presence.watchdog, call.number)

    def _take_presences(self, present: dict[str, Presence], seen: int, until: float) -> int:
        count = min(self._store.add("hosts", 0), _MOST_HOSTS)
        for text in self._texts([f"host/{i}" for i in range(seen + 1, count + 1)], until):
            seen += 1
            if not text:
                continue
            try:
                found = Presence.from_plain(parse(text, MAX_PRESENCE))
            except RefusedError as error:
                self._refuse(error.reason, f"the presence of a host: {error}")
            else:
                present[found.watchdog] = found
        return seen

    def _take_parts(self, call: RollCall, parts: _Parts, taken: int, until: float) -> int:
        """Read the parts that have come since, in their order; return how many there are."""
        count = min(self._store.add(f"given/{call.number}", 0), _MOST_HOSTS)
        keys = [f"part/{call.number}/{place}" for place in range(taken + 1, count + 1)]
        for text in self._texts(keys, until):
            if text is None:
                break  # Its number was taken, and it is on its way.
            taken += 1
            self._take_part(parts, text)
        return taken

    def _take_part(self, parts: _Parts, text: str) -> None:
        try:
            summary = parts.reader.read(text)
        except RefusedError as error:
            host = _host_of(text)
            if error.version is not None and host:
                why = f"runs version {error.version} of the protocol, this is {VERSION}"
                parts.others[host] = why
            self._refuse(error.reason, f"the part of {host or 'a host'}: {error}")
            return
        who = summary.presence
        ranks = {view.worker.rank for view in summary.views}
        if who.watchdog in parts.given or parts.ranks & ranks - {None}:
            self._refuse("identity_mismatch", f"{who.host} speaks for the ranks of another host")
            return
        parts.given[who.watchdog] = who.host
        parts.views += summary.views
        parts.ranks |= ranks
        if summary.world_size is not None:
            parts.sizes.add(summary.world_size)

    def _is_complete(self, parts: _Parts, present: Mapping[str, Presence]) -> bool:
        """Whether every rank of the job is there, or every host that takes part."""
        if len(parts.sizes) == 1 and len(parts.ranks - {None}) >= max(parts.sizes):
            return True
        everybody = present.keys() <= parts.given.keys() | {
            who for who, each in present.items() if each.host in parts.others
        }
        covered = {rank for each in present.values() for rank in each.ranks}
        # A host may not have joined yet: its ranks are missing, and it may still come.
        return everybody and (not parts.sizes or len(covered) >= max(parts.sizes))

    def _texts(self, keys: Sequence[str], until: float) -> Iterable[str | None]:
        """Read texts until the bound has passed: counts are what somebody says they are."""
        for start in range(0, len(keys), _AT_ONCE):
            if left(until) <= 0:
                return
            yield from self._store.get(keys[start : start + _AT_ONCE])


def _unheard(parts: _Parts, present: Mapping[str, Presence]) -> tuple[str, ...]:
    """Name the hosts that did not answer, and why; those whose ranks are elsewhere by now left."""
    found = [f"{host} {why}" for host, why in parts.others.items()]
    for who, each in present.items():
        gone = each.ranks and parts.ranks.issuperset(each.ranks)
        if who in parts.given or each.host in parts.others or gone:
            continue
        which = f" (ranks {rank_ranges(each.ranks)})" if each.ranks else ""
        found.append(f"{each.host}{which} is silent")
    return tuple(found)


def with_unheard(report: HangReport, unheard: tuple[str, ...]) -> HangReport:
    """Return ``report``, and who was not heard in it and in its sentence."""
    if not unheard:
        return report
    sentence = f"{report.sentence.removesuffix('.')}; not heard: {listed(list(unheard), 3)}."
    return replace(report, unheard=unheard, sentence=sentence)


def _host_of(text: str) -> str:
    """Return the name in a text of another version, if it has one."""
    try:
        plain = json.loads(text) if len(text) <= MAX_SUMMARY else None
        return text_of(plain, "host") if isinstance(plain, dict) else ""
    except (ValueError, RecursionError):
        return ""
