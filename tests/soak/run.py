"""One run: the service, its load, and the account at the end."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from support.command import Cli

from .account import Row, compare, planned_figures, seen_figures, short_figures
from .crew import LONGEST_SECONDS, Crew
from .events import EventFiles
from .growth import Growth, Sample, Sampler, growth, sample
from .journal import read_journals
from .plan import PAIRS, episodes, opening
from .service import Service, serving
from .visitors import Visitors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Result", "soak"]

ROTATE_SECONDS = 20.0
SETTLE_SECONDS = 30.0


@dataclass
class Result:
    """What a run came to."""

    pair: str
    seed: int
    seconds: float
    stopped_early: bool
    kinds: dict[str, int]
    """Episodes of each kind."""
    visits: dict[str, int]
    rows: list[Row]
    growth: list[Growth]
    cpu_share: float
    """Of one core, that the service used while it was sampled."""
    kept: str | None = None
    """Where the evidence is."""
    differences: list[str] = field(init=False)
    """Everything that is not as planned, in words; empty when the account is exact."""

    def __post_init__(self) -> None:
        self.differences = [words for row in self.rows for words in row.differences]
        self.differences += [
            f"{each.what} grew from {each.first:.4g} to {each.last:.4g} {each.unit}".rstrip()
            for each in self.growth
            if not each.is_bounded
        ]


def soak(
    pair: str,
    *,
    minutes: float,
    seed: int,
    workers: int,
    should_stop: Callable[[], bool],
    keep: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Run for ``minutes`` after the opening, which is one episode of each kind, and account for it.

    :param pair: one of :data:`~soak.plan.PAIRS`.
    :param should_stop: asked often; no new episodes are started once it says so.
    :param keep: an empty directory for the journals and event files, which stay there; by default
        they are removed.
    :param say: is told what goes on.
    """
    with _directory(keep) as directory, contextlib.ExitStack() as end:
        cli = Cli(directory / "service")
        events = EventFiles(directory / "events.jsonl")
        end.callback(events.close)
        service = end.enter_context(serving(cli, directory, events))
        say(f"service: pid {service.pid}, http {service.address}, {directory}")
        plan = episodes(seed, PAIRS[pair])
        crew = Crew(service, events, plan, directory, workers)
        end.callback(crew.close)
        visitors = Visitors(service.address, seed)
        end.callback(visitors.stop)
        run = _Run(service, events, crew, visitors, should_stop)
        run.open(len(opening(PAIRS[pair])))
        say("opened: each kind has been there once, and the service is idle")
        run.go_on(minutes * 60)
        say("ending: the account follows")
        rows = run.account(directory)
        cli.assert_nothing_left()
        return Result(
            pair,
            seed,
            run.seconds,
            should_stop(),
            dict(crew.kinds),
            {**visitors.answers, "slow clients": visitors.slow_ones},
            rows,
            growth(run.samples, run.idle),
            _cpu_share(run.samples),
            None if keep is None else str(keep),
        )


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


class _Run:
    """The parts of a run, and what was measured of it."""

    def __init__(
        self,
        service: Service,
        events: EventFiles,
        crew: Crew,
        visitors: Visitors,
        should_stop: Callable[[], bool],
    ) -> None:
        self.samples: list[Sample] = []
        self.idle: list[Sample] = []
        self.seconds = 0.0
        self._service = service
        self._events = events
        self._crew = crew
        self._visitors = visitors
        self._should_stop = should_stop

    def open(self, first: int) -> None:
        """One of each kind of episode: what is loaded or made at first use is there afterwards."""
        self._visitors.start()
        while sum(self._crew.kinds.values()) < first and not self._should_stop():
            # Not a single one more, so that every run begins alike.
            room = first - sum(self._crew.kinds.values())
            size, self._crew.size = self._crew.size, min(self._crew.size, self._crew.at_work + room)
            self._crew.step(more=True)
            self._crew.size = size
        self._finish()
        self.idle.append(self._settled())

    def go_on(self, seconds: float) -> None:
        """The load."""
        if self._should_stop():
            return
        sampler = Sampler(self._service.pid)
        started = time.monotonic()
        rotations = itertools.count(1)
        rotate_at = started + ROTATE_SECONDS / 4
        sampler.start()
        self._visitors.start()
        while time.monotonic() < started + seconds and not self._should_stop():
            self._crew.step(more=True)
            self._events.poll()
            if time.monotonic() > rotate_at:
                rotate_at = started + next(rotations) * ROTATE_SECONDS
                self._service.rotate_events(self._events)
        sampler.stop()
        self._finish()
        self.seconds = time.monotonic() - started
        self.samples = sampler.samples
        self.idle.append(self._settled())

    def _finish(self) -> None:
        """Let everybody come to their end; the crew gives up on those who do not."""
        while self._crew.at_work:
            self._crew.step(more=False)
            self._events.poll()
        self._visitors.stop()

    def _settled(self) -> Sample:
        """The service once it has nothing left to do, or after a while in any case."""
        give_up = time.monotonic() + SETTLE_SECONDS
        found = sample(self._service.pid)
        calm = 0
        while calm < 3 and time.monotonic() < give_up:
            time.sleep(0.2)
            now = sample(self._service.pid)
            held = (now.descriptors, now.threads)
            is_calm = held == (found.descriptors, found.threads) and not self._service.timers()
            calm = calm + 1 if is_calm else 0
            found = now
        if self.idle:
            # The connection of the last question may still be about to be closed.
            while found.descriptors > self.idle[0].descriptors and time.monotonic() < give_up:
                time.sleep(0.2)
                found = sample(self._service.pid)
        return found

    def account(self, directory: Path) -> list[Row]:
        """Everything, compared; the service is stopped by it."""
        metrics = self._service.metrics()
        status = self._service.stop()
        self._events.poll()
        accounts = read_journals(directory)
        ends = dict(self._crew.ends)
        for account in accounts:
            for child in account.children:
                ends[child.pid] = ends.get(child.pid, frozenset()) | {child.seen}
            for ghost in account.ghosts:
                ends[ghost] = ends.get(ghost, frozenset()) | {0}
        planned = planned_figures(accounts) | {
            "accounts": self._crew.accounts,
            "exits of workers": self._crew.planned,
            "events: watchdog started, stopped": Counter(("watchdog started", "watchdog stopped")),
            "exit of the service": Counter(("status 0",)),
        }
        seen = seen_figures(metrics, self._events, accounts, ends) | {
            "accounts": Counter(f"of {self._crew.names[each.worker]}" for each in accounts),
            "exits of workers": self._crew.seen,
            "events: watchdog started, stopped": Counter(
                {name: n for name, n in self._events.names.items() if name.startswith("watchdog")}
            ),
            "exit of the service": Counter((f"status {status}",)),
            f"workers given up after {LONGEST_SECONDS:g} s": self._crew.overdue,
            "complaints of workers": self._crew.complaints(),
            "complaints of visitors": self._visitors.complaints,
            "lines of the service on stderr": _stderr(directory / "service.stderr"),
        }
        return compare(planned, seen, short_figures(accounts))


def _stderr(path: Path) -> Counter[str]:
    lines = path.read_text(errors="replace").splitlines()
    return Counter(line for line in lines if not line.startswith("timers: serves http://"))


def _cpu_share(samples: list[Sample]) -> float:
    if len(samples) < 2:
        return 0.0
    return (samples[-1].cpu_seconds - samples[0].cpu_seconds) / (samples[-1].at - samples[0].at)
