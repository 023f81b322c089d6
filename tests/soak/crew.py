"""The workers of a run: started by plan, told when to go on, killed where the plan says so."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from support.processes import VICTIMS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .events import EventFiles
    from .plan import Episode
    from .service import Service

__all__ = ["Crew"]

LONGEST_SECONDS = 90.0
"""An episode that takes longer is one whose hang nobody reaps, or whose word nobody hears."""
_LOOK_SECONDS = 0.05
_NOTE = re.compile(r"timers: (worker|rank) \d+ is reaped: ")


class _Member:
    """One worker process that runs."""

    def __init__(self, episode: Episode, process: subprocess.Popen[bytes]) -> None:
        self.episode = episode
        self.process = process
        self.give_up = time.monotonic() + LONGEST_SECONDS
        self.said = b""


class _Wish(NamedTuple):
    """Something that a worker, or a child of it, waits for."""

    pid: int
    scope: str
    event: str
    """That has to be told; empty: its timer has to be known to the server."""
    number: signal.Signals
    """What to send to it then."""


class Crew:
    """Has up to ``size`` workers at work as long as there is a plan. For one thread.

    :param plan: what they do, one after the other.
    :param directory: where they keep their journals.
    """

    def __init__(
        self,
        service: Service,
        events: EventFiles,
        plan: Iterator[Episode],
        directory: Path,
        size: int,
    ) -> None:
        self.size = size
        self.kinds: Counter[str] = Counter()
        """How many episodes of each kind there were."""
        self.planned: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        """How they were to end, and ended."""
        self.accounts: Counter[str] = Counter()
        """How many processes of each episode have to leave an account."""
        self.ends: dict[int, frozenset[int]] = {}
        """The same by pid."""
        self.names: dict[int, str] = {}
        """Of the episodes, by number."""
        self.overdue: Counter[str] = Counter()
        """Those that had to be given up."""
        self._service = service
        self._events = events
        self._plan = plan
        self._directory = directory
        self._members: dict[int, _Member] = {}
        self._wishes: list[_Wish] = []
        self._selector = selectors.DefaultSelector()
        self._stderr = open(directory / "workers.stderr", "ab")  # noqa: SIM115  # until close()
        self._next_look = 0.0

    @property
    def at_work(self) -> int:
        """How many there are now."""
        return len(self._members)

    def step(self, *, more: bool) -> None:
        """Do what is to be done now, waiting for it a moment.

        :param more: whether to start further episodes.
        """
        while more and len(self._members) < self.size:
            self._start(next(self._plan))
        for key, _ in self._selector.select(_LOOK_SECONDS):
            self._hear(key.data)
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_SECONDS
            self._fulfil()
            self._give_up()

    def complaints(self) -> Counter[str]:
        """What workers wrote to stderr; they have no reason to. The service has: of a reap."""
        lines = (self._directory / "workers.stderr").read_text(errors="replace").splitlines()
        return Counter(line for line in lines if not _NOTE.match(line))

    def close(self) -> None:
        """Kill those that are left, and forget them."""
        for member in list(self._members.values()):
            member.process.kill()
            self._end(member)
        self._selector.close()
        self._stderr.close()

    def _start(self, episode: Episode) -> None:
        rogue = episode.kind == "misbehaves"
        script = VICTIMS / ("soak_rogue.py" if rogue else "soak_worker.py")
        command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script)]
        process = subprocess.Popen(
            [*command, episode.as_json(), str(self._directory), str(self._service.pid)],
            env=self._service.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            process_group=0,
        )
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        member = _Member(episode, process)
        self._members[process.pid] = member
        self._selector.register(process.stdout, selectors.EVENT_READ, member)
        self.kinds[episode.kind] += 1
        self.accounts[f"of {episode}"] += 1 + len(episode.children)
        self.names[episode.number] = str(episode)

    def _hear(self, member: _Member) -> None:
        assert member.process.stdout
        data = member.process.stdout.read()
        if data:
            *lines, member.said = (member.said + data).split(b"\n")
            for line in lines:
                self._wish(json.loads(line))
        elif data == b"":  # it has ended, and so have its children
            self._end(member)

    def _wish(self, said: dict[str, Any]) -> None:
        if "waits_for" in said:
            wish = _Wish(said["pid"], said["scope"], said["waits_for"], signal.SIGUSR1)
        else:
            number = signal.SIGKILL if said["then"] == "kill" else signal.SIGUSR1
            wish = _Wish(said["pid"], said["open"], "", number)
        self._wishes.append(wish)

    def _fulfil(self) -> None:
        if not self._wishes:
            return
        self._events.poll()
        known = self._service.timers() if any(not each.event for each in self._wishes) else set()
        for wish in list(self._wishes):
            if wish.event:
                granted = self._events.happened(wish.event, wish.pid, wish.scope)
            else:
                # By now everything that it did before has arrived, too: order is kept.
                granted = (wish.pid, wish.scope) in known
            if granted:
                self._wishes.remove(wish)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(wish.pid, wish.number)

    def _give_up(self) -> None:
        now = time.monotonic()
        for member in list(self._members.values()):
            if now > member.give_up:
                self.overdue[f"{member.episode} did not end within {LONGEST_SECONDS:g} s"] += 1
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(member.process.pid, signal.SIGKILL)
                member.give_up = now + LONGEST_SECONDS

    def _end(self, member: _Member) -> None:
        process, episode = member.process, member.episode
        assert process.stdout
        status = process.wait()
        self.planned[f"{episode}: {episode.exit_status}"] += 1
        self.seen[f"{episode}: {status}"] += 1
        self.ends[process.pid] = self.ends.get(process.pid, frozenset()) | {status}
        self._selector.unregister(process.stdout)
        process.stdout.close()
        del self._members[process.pid]
        self._wishes = [wish for wish in self._wishes if wish.pid != process.pid]
