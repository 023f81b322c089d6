"""A watchdog on a bench: a fake clock, a fake source, an observer that remembers; no thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timers.server.reaper import ReapPolicy, Step
from timers.server.server import WatchdogServer
from timers.server.statistics import Statistics
from timers.server.watchdog import Watchdog
from timers.testing import FakeClock, FakeSource, RecordingObserver
from timers.transport.wire import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.events import Outcome
    from timers.server._reaping import Reap
    from timers.server.reaper import BeforeKill
    from timers.server.workers import Worker

__all__ = ["Rig"]


def _nothing(run_id: str, expired: dict[int, list[str]]) -> None:
    del run_id, expired


class Rig:
    """What a server consists of, driven by hand.

    :param reap: in place of the real kill: ``reap(pid, signal)``, true when it is done with.
    :param before_kill: in place of nothing.
    """

    def __init__(
        self,
        *,
        reap: Callable[[int, int], bool] | None = None,
        before_kill: BeforeKill = _nothing,
        policy: ReapPolicy | None = None,
        wants_requests: bool = True,
        is_running: Callable[[int], bool] = WatchdogServer.is_process_running,
        source: FakeSource | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.source = source or FakeSource()
        self.observer = RecordingObserver(wants_requests=wants_requests)
        self.reaped: list[tuple[int, int]] = []
        """Every (pid, signal) that was to be reaped."""
        self._reap = reap
        self.watchdog = Watchdog(
            self.source,
            run_id="run-1",
            statistics=Statistics(),
            policy=policy or ReapPolicy(),
            clock=self.clock,
            observer=self.observer,
            replaced_reap=lambda: None if reap is None else self._note_reap,
            before_kill=lambda _until: Step(before_kill),
            is_running=is_running,
        )
        reaping = self.watchdog._reaping
        self._kill = reaping._terminate
        reaping._terminate = self._note_kill  # type: ignore[method-assign]  # to see each kill

    def _note_reap(self, pid: int, signal: int) -> bool:
        """Stand in for a ``_reap_worker`` that was replaced."""
        self.reaped.append((pid, signal))
        assert self._reap is not None
        return self._reap(pid, signal)

    def _note_kill(self, worker: Worker, signal: int, reap: Reap | None) -> Outcome:
        self.reaped.append((worker.pid, signal))
        return self._kill(worker, signal, reap)

    def acquire(
        self,
        pid: int,
        scope: str,
        *,
        after: float,
        start_time: int | None = None,
        thread: int | None = 1,
        signal: int = 9,
        nested: bool = False,
        leave: bool = False,
        traceparent: str | None = None,
        warn_after: float | None = None,
    ) -> None:
        """Apply an acquire as a client of ours would send it now."""
        self.watchdog.apply(
            [
                Message(
                    pid,
                    scope,
                    self.clock.time() + after,
                    signal,
                    start_time=start_time,
                    thread=thread,
                    deadline_ns=self.clock.monotonic_ns() + round(after * 1e9),
                    after=after,
                    nested=nested,
                    leave=leave,
                    traceparent=traceparent,
                    warn_after=warn_after,
                )
            ]
        )

    def acquire_as_torch(self, pid: int, scope: str, *, after: float, signal: int = 9) -> None:
        """Apply an acquire with torch's four facts only."""
        self.watchdog.apply([Message(pid, scope, self.clock.time() + after, signal)])

    def release(
        self, pid: int, scope: str, *, thread: int | None = 1, error: str | None = None
    ) -> None:
        """Apply a release; one of torch's when ``thread`` is None."""
        self.watchdog.apply([Message(pid, scope, -1, 0, thread=thread, error=error)])

    def step(self) -> None:
        """One step of the loop that waits for nothing."""
        self.watchdog.step(self.clock.monotonic_ns())

    def settle(self) -> None:
        """Wait for the reaps under way, and take their results."""
        assert self.watchdog.wait_for_reaps(60)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, expire what is due, and see the reaps through."""
        self.clock.advance(seconds)
        self.watchdog.sweep()
        self.settle()

    def close(self) -> None:
        """Give back the descriptors."""
        self.watchdog.close()
