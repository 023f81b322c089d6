"""What our own servers share: the public face of a :class:`~timers.server.watchdog.Watchdog`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import os
import signal as signals
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from timers.api import RequestQueue, TimerRequest, TimerServer
from timers.bounded import left
from timers.clock import SYSTEM_CLOCK, Clock
from timers.debug_info_logging import log_debug_info_for_expired_timers
from timers.linux import procfs
from timers.linux.process import exists, require_linux
from timers.transport.wire import Message, Rejection

from .reaper import ReapPolicy, Step
from .watchdog import RunningTimer, Sampler, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from timers.events import Observer, WorkerInfo
    from timers.transport.source import OwnedSource

    from .reaper import BeforeKill
    from .table import Timer
    from .workers import Worker

__all__ = ["WatchdogServer"]

_logger = logging.getLogger(__name__)
_NS = 1_000_000_000


class WatchdogServer(TimerServer):
    """A server whose workers are processes of this host, driven by their deadlines.

    Parameters beyond those of :class:`~timers.api.TimerServer`:

    :param sources: where requests come from; closed with the server, or when it cannot be made.
    :param request_queue: the same as torch's kind of queue, where there is one.
    :param address: what clients connect to, for events.
    :param run_id: names the job in events and dumps.
    :param observer: receives every event; by default the ``timers.events`` logger.
    :param before_kill: the step before a kill, in place of the default one, which takes stacks.
    :param policy: how stuck workers are ended.
    :param clock: where the time comes from.
    """

    def __init__(
        self,
        sources: Sequence[OwnedSource],
        request_queue: RequestQueue | None = None,
        *,
        address: str,
        max_interval: float,
        daemon: bool,
        run_id: str,
        observer: Observer | None,
        before_kill: BeforeKill | None,
        policy: ReapPolicy | None,
        clock: Clock | None,
    ) -> None:
        with contextlib.ExitStack() as failed:
            for source in sources:
                failed.callback(source.close)
            require_linux(type(self).__name__)
            # Nothing shall have to be imported at the moment of a hang; workers never need this.
            importlib.import_module("timers.stacks._ladder")
            if not 0 < max_interval < threading.TIMEOUT_MAX:
                raise ValueError(f"max_interval must be more than 0 seconds, got {max_interval!r}")
            super().__init__(request_queue, max_interval, daemon)
            self.run_id = run_id
            self.address = address
            """What clients connect to: a path, or the kind of queue."""
            self.reached_by: dict[str, str] = {}
            """For the event of the start: ``socket`` and ``url``, where there are such."""
            self._clock = clock or SYSTEM_CLOCK
            self._policy = policy or ReapPolicy()
            self._user_before_kill = before_kill
            self._run_once_signaled = False
            self._owner = os.getpid()
            self._last_progress = self._clock.time()
            self._watchdog = Watchdog(
                *sources,
                run_id=run_id,
                statistics=self.statistics,
                policy=self._policy,
                clock=self._clock,
                observer=self._receiver,
                # All are looked up at each call: torch's users (and tests) replace them.
                replaced_reap=self._replaced_reap,
                before_kill=self._step_before_kill,
                is_running=lambda pid: self.is_process_running(pid),  # noqa: PLW0108  # see above
            )
            self.observer = observer
            failed.callback(self._watchdog.close)
            self._release_sources = failed.pop_all()

    def _receive_with(self, observer: Observer) -> None:
        super()._receive_with(observer)
        if "_watchdog" in vars(self):  # not yet in the base class's constructor
            self._watchdog.state.observer = observer

    # -- what torch's servers have, by the same names --------------------------------------------

    @property
    def _timers(self) -> dict[tuple[int, str], TimerRequest]:
        """The running timers as torch keeps them: by pid and scope."""
        with self._watchdog.lock:
            return {
                (timer.worker.pid, timer.scope_id): self._request(timer)
                for timer in self._watchdog.state.timers()
            }

    @property
    def _request_count(self) -> int:
        return self.statistics.requests

    def _request(self, timer: Timer[Worker]) -> TimerRequest:
        """Make of a timer the kind of request that this server's clients send."""
        return TimerRequest(timer.worker.pid, timer.scope_id, timer.expiration_time)

    def _message(self, request: Any) -> Message:
        """Do the reverse of :meth:`_request`, for requests that come in as objects."""
        return Message(
            request.worker_id, request.scope_id, request.expiration_time, int(signals.SIGKILL)
        )

    def register_timers(self, timer_requests: list[Any]) -> None:
        """Apply requests as if they had arrived now. Safe from any thread."""
        self._watchdog.apply([self._message(request) for request in timer_requests])

    def reject(self, reason: str, detail: str) -> None:
        """Count something that was sent and refused elsewhere. Safe from any thread.

        :param reason: one of :data:`timers.server.statistics.REJECTION_REASONS`.
        """
        self._watchdog.apply((), [Rejection(reason, detail)])

    def clear_timers(self, worker_ids: set[int]) -> None:
        """Forget every timer of these pids. Safe from any thread."""
        self._watchdog.clear(worker_ids)

    def get_expired_timers(self, deadline: float) -> dict[int, list[Any]]:
        """Return the timers that are due when the wall clock shows ``deadline``, by pid.

        Differs from torch: the clock is the monotonic one, counted from now.
        """
        ahead_ns = int((deadline - self._clock.time()) * _NS)
        due_ns = self._clock.monotonic_ns() + ahead_ns
        expired: dict[int, list[Any]] = {}
        with self._watchdog.lock:
            for timer in self._watchdog.state.timers():
                if timer.deadline_ns <= due_ns:
                    expired.setdefault(timer.worker.pid, []).append(self._request(timer))
        return expired

    def _reap_worker(self, worker_id: int, signal: int = signals.SIGKILL) -> bool:
        """End a worker and see it end, as the policy says. May be overridden."""
        return self._watchdog.terminate(worker_id, int(signal))

    def _replaced_reap(self) -> Callable[[int, int], bool] | None:
        """Return :meth:`_reap_worker` where it was overridden or patched."""
        found = self._reap_worker
        return None if getattr(found, "__func__", None) is _our_reap_worker else found

    def _default_before_kill(self) -> BeforeKill:
        return log_debug_info_for_expired_timers

    def _step_before_kill(self, until: float) -> Step:
        step = self._user_before_kill
        if step is not None:
            return Step(partial(step, until=until) if _takes_until(step) else step)
        step = self._default_before_kill()
        ours = step is log_debug_info_for_expired_timers
        return Step(partial(step, timeout=left(until)), keeps_bound=ours)

    @staticmethod
    def is_process_running(pid: int) -> bool:
        """Return whether ``pid`` is a process that has not ended.

        Differs from torch: a zombie has ended, and a process of another user is running.
        """
        if pid <= 0:
            return False
        found = procfs.stat(pid)
        if found is not None:
            return found.state not in "ZX"
        return exists(pid)  # /proc may be hidden, or no descriptor be left to read it

    def running_timers(self, limit: int | None = None) -> list[RunningTimer]:
        """List the open timers, the most urgent first. Safe from any thread.

        :param limit: how many, at most; by default all.
        """
        return self._watchdog.state.running(limit)

    def known_workers(self) -> list[WorkerInfo]:
        """List the workers that sent a request and have not exited. Safe from any thread."""
        return self._watchdog.known_workers()

    def sample_with(self, sampler: Sampler) -> None:
        """Have workers sampled before their deadline; to be called before :meth:`start`."""
        self._watchdog.sample_with(sampler)

    def wake(self) -> None:
        """Have the watchdog check its deadlines now. Safe from any thread.

        It needs no waking to be on time; that it answers shows that it is alive
        (``statistics.last_sweep`` changes).
        """
        self._watchdog.wake()

    # -- running --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start watching, on a thread; does nothing when it runs.

        :raises RuntimeError: after :meth:`stop`; a stopped server stays stopped.
        """
        if self._is_ending():
            raise RuntimeError(f"this {type(self).__name__} was stopped: make a new one")
        if self._watchdog_thread is not None:
            _logger.info("%s runs already", type(self).__name__)
            return
        self._watchdog_thread = threading.Thread(
            target=self._watchdog_loop, name=type(self).__name__, daemon=self._daemon
        )
        self._watchdog.started(self.address, self._max_interval, **self.reached_by)
        self._watchdog_thread.start()

    def _is_ending(self) -> bool:
        return super()._is_ending() or self._run_once_signaled

    def _run_watchdog(self) -> None:
        """Serve requests and deadlines for ``max_interval`` seconds.

        Called from another thread than the server's own (a test, or a program without
        :meth:`start`), it also waits for the reaps that it began.
        """
        end_ns = self._clock.monotonic_ns() + int(self._max_interval * _NS)
        is_own = threading.current_thread() is self._watchdog_thread
        if is_own:
            self._watchdog.promptness.begin()
        while not self._is_ending():
            self._watchdog.step(end_ns)
            self._last_progress = self._clock.time()
            if self._clock.monotonic_ns() >= end_ns:
                break
        if not is_own:
            self._watchdog.wait_for_reaps(self._policy.reap_timeout)

    def run_once(self) -> None:
        """Process every request that has been sent, reap what is due, and end, as in torch.

        Does nothing when the server has ended, or in a forked child.
        """
        if self._is_ending() or self._owner != os.getpid():
            return
        self._run_once_signaled = True
        self._join()
        now_ns = self._clock.monotonic_ns()
        self._watchdog.read_all(now_ns + int(self._max_interval * _NS))
        self._watchdog.step(now_ns)
        self._watchdog.wait_for_reaps(self._policy.reap_timeout)
        self._release_sources.close()

    def stop(self) -> None:
        """End the watchdog thread; a reap that is under way is finished, within its own bounds.

        Idempotent. In a forked child it does nothing: the server is its parent's.
        """
        if self._stop_signaled or self._owner != os.getpid():
            return
        self._stop_signaled = True
        self._join()
        self._watchdog.wait_for_reaps(self._policy.reap_timeout)
        self._watchdog.stopped()
        self._release_sources.close()
        with contextlib.suppress(Exception):
            self._receiver.flush(self._policy.flush_timeout)

    def _join(self) -> None:
        self._watchdog.wake()
        if self._watchdog_thread is not None:
            self._watchdog_thread.join()
            self._watchdog_thread = None

    def get_last_progress_time(self) -> int:
        """Wall-clock second at which the watchdog last completed a step; now, before it runs."""
        running = self._watchdog_thread is not None
        return int(self._last_progress if running else self._clock.time())


_our_reap_worker = WatchdogServer._reap_worker  # noqa: SLF001  # this module's own


def _takes_until(step: BeforeKill) -> bool:
    try:
        return "until" in inspect.signature(step).parameters
    except (TypeError, ValueError):  # a callable without a signature
        return False
