"""Apply requests as they come in: check who sent them, count them, turn them into timers."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from timers.events import RequestRejected, TimerAcquired, TimerInfo, TimerReleased

from ._state import NS, timer_info
from .table import Timer, TooManyTimersError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from timers.transport.wire import Message, Rejection

    from ._state import State
    from .statistics import ScopeStatistics
    from .workers import Worker, Workers

_FOREVER = 2**63
_REJECTIONS_LOGGED_EVERY_NS = NS
_MOST_SPANS = 10_000
"""Of blocks that are open on boards; further ones end without one."""
HOLD_NS = NS // 2
"""How long releases that were held up get to arrive before anything expires."""
_HELD_UP_NS = NS // 10
"""An acquire that arrives this much after its own deadline was held up, and gets that time."""
_ONE_ACQUIRE, _ONE_RELEASE = (1, 0), (0, 1)


class Intake:
    """Applies the requests of one server, in the order in which they come.

    :param state: whose timers and counts they change.
    :param workers: identifies who sent them.
    """

    def __init__(self, state: State, workers: Workers) -> None:
        self._state = state
        self._workers = workers
        self._by_pid = workers.by_pid
        self._table = state.table
        self._with_boards = state.boards.of
        self._statistics = state.statistics
        self.offsets: Callable[[int], tuple[int, ...]] | None = None
        """When to sample a timer of so many ns, in ns after its acquire; None for never."""
        self._unread: Iterator[Message] = iter(())
        """What has been read and not been applied, should something fail in between."""
        self._accepted = 0
        """How many valid requests were not counted yet: that is done once for many."""
        self.disturbed = False
        """Whether something failed in the middle: gauges need to be counted anew."""
        self._logged_rejections: dict[str, tuple[int, int]] = {}

    def apply(self, messages: Iterable[Message], rejections: Iterable[Rejection] = ()) -> None:
        """Apply requests; count what was refused before it got here."""
        with self._state.lock:
            self._unread = chain(self._unread, messages)
            now_ns = self._state.clock.monotonic_ns()
            for message in self._unread:
                try:
                    self._apply(message, now_ns)
                except Exception as error:  # noqa: BLE001  # one request costs that request at most
                    self._try_again(message, now_ns, error)
            self._unread = iter(())
            self._statistics.requested(self._accepted)
            self._accepted = 0
            for rejection in rejections:
                self._reject(rejection.reason, rejection.detail, None)

    def _try_again(self, message: Message, now_ns: int, error: Exception) -> None:
        # A release that is lost for want of a little memory costs its worker its life.
        try:
            if isinstance(error, OSError):
                raise error  # noqa: TRY301  # who sent it cannot be found out
            self.disturbed = True
            self._apply(message, now_ns)
        except Exception as lasting:  # noqa: BLE001  # as above
            self._reject("internal_error", f"{lasting!r} on {message}", message.pid)

    def sender(self, pid: int, start_time: int | None) -> Worker | None:
        """Return the worker that sent a request; None when that process is gone and replaced."""
        worker = self._by_pid.get(pid)
        if worker is None or (start_time is not None and start_time != worker.start_time):
            return self._workers.identify(pid, start_time)
        return worker

    def _apply(self, message: Message, now_ns: int) -> None:  # noqa: C901  # hot path
        pid, scope_id = message.pid, message.scope_id
        worker = self.sender(pid, message.start_time)
        if worker is None:
            detail = f"the process with pid {pid} is not the one that sent the request"
            self._reject("identity_mismatch", detail, pid)
            return
        if worker.refusal is not None and self._refuses(worker):
            return
        if worker in self._with_boards:
            # It may have been sent, or be here, in place of a wake-up that there was no room for.
            self._state.boards.wake(worker)
        if message.board:
            self._report(worker, message)
            return
        self._accepted += 1
        scope = self._statistics.scopes.get(scope_id) or self._statistics.scope(scope_id)
        if message.expiration_time < 0:
            self._release(worker, scope, message, now_ns)
            return
        acquires, releases = message.missed or (_ONE_RELEASE if message.leave else _ONE_ACQUIRE)
        timer = self._timer(worker, scope, message, now_ns)
        try:
            replaced = self._table.acquire(timer)
            if message.missed is not None:
                self._statistics.lost(max(0, acquires - (replaced is None)), releases)
        except TooManyTimersError:
            scope.count(acquires, releases)
            self._reject("too_many", f"process {pid} has too many open timers", pid)
            return
        if replaced is None:
            scope.count(acquires, releases, 1)
        else:
            scope.count(acquires, releases, 0, -replaced.expired)
            self._replaced(replaced, timer, scope, message, now_ns)
        if not self._state.observer.wants_requests or message.leave:
            return
        if replaced is None or message.missed is None:
            self._state.emit(TimerAcquired, worker=worker.info, timer=timer_info(timer))

    def _release(
        self, worker: Worker, scope: ScopeStatistics, message: Message, now_ns: int
    ) -> None:
        acquires, releases = message.missed or _ONE_RELEASE
        released = self._table.release(worker, message.thread, message.scope_id)
        if message.missed is not None:
            self._statistics.lost(acquires, max(0, releases - (released is not None)))
        if released is None:
            scope.count(acquires, releases)
            return
        scope.count(acquires, releases, -1, -released.expired)
        worker.outers -= released.depth
        self._state.block_ended(released, scope, now_ns, message.error)

    def _report(self, worker: Worker, message: Message) -> None:
        """Emit what a worker says of a block that its board counts and keeps."""
        if not self._state.observer.wants_requests:
            return  # it was wanted by the server before
        span = message.traceparent, message.span_id
        info = TimerInfo(
            scope_id=message.scope_id,
            expiration_time=message.expiration_time,
            after_seconds=message.after or 0.0,
            signal=message.signal,
            thread=message.thread,
            traceparent=span[0],
            span_id=span[1],
        )
        spans, key = self._state.boards.spans, (worker, message.thread, message.scope_id)
        if message.took is None:
            if span != (None, None) and len(spans) < _MOST_SPANS:
                spans[key] = span
            self._state.emit(TimerAcquired, worker=worker.info, timer=info)
            return
        spans.pop(key, None)
        self._state.emit(
            TimerReleased,
            worker=worker.info,
            timer=info,
            elapsed_seconds=message.took,
            error=message.error,
        )

    def _refuses(self, worker: Worker) -> bool:
        self._workers.check_again(worker)
        if worker.refusal is None:
            return False
        detail = _REFUSALS[worker.refusal].format(pid=worker.pid)
        self._reject(worker.refusal, detail, worker.pid)
        return True

    def _replaced(
        self,
        replaced: Timer[Worker],
        timer: Timer[Worker],
        scope: ScopeStatistics,
        message: Message,
        now_ns: int,
    ) -> None:
        """Continue, in ``timer``, the block of the one that it replaces."""
        worker = timer.worker
        worker.outers -= replaced.depth
        if message.nested:
            if worker.outers + replaced.depth < self._state.max_timers:
                timer.outer = replaced
                timer.depth = replaced.depth + 1
            else:
                # It has its deadline all the same, but what it was entered in is not remembered.
                timer.continues(replaced)
                self._reject(
                    "too_many", f"process {worker.pid} has too many nested timers", worker.pid
                )
        elif message.missed is not None:
            pass  # it says itself when its block began
        elif not message.leave:  # a heartbeat: the same block goes on
            timer.continues(replaced)
        else:
            self._state.block_ended(replaced, scope, now_ns, message.error)
            if replaced.outer is not None:
                timer.continues(replaced.outer)
        worker.outers += timer.depth

    def _timer(
        self, worker: Worker, scope: ScopeStatistics, message: Message, now_ns: int
    ) -> Timer[Worker]:
        deadline_ns, after = message.deadline_ns, message.after
        started_ns = None
        if deadline_ns is not None and worker.clock_skew_ns != 0:
            deadline_ns = self._translated(worker, message, now_ns)
        if deadline_ns is None:
            # Converted once, here: whatever happens to the wall clock later moves nothing.
            remaining = int((message.expiration_time - self._state.clock.time()) * NS)
            deadline_ns = now_ns + remaining
            acquired_ns = now_ns if remaining > 0 else deadline_ns
        elif after is None:
            acquired_ns = min(now_ns, deadline_ns)
        else:
            after_ns = int(after * NS)
            if deadline_ns - after_ns > now_ns:
                # It cannot have been sent later than now: that is by another clock than ours.
                worker.read_clock()
                deadline_ns = now_ns + after_ns
            if message.missed is not None:
                # It was open before this server knew of it, or was held up: whatever its deadline
                # was, a release that was sent in time may be right behind it.
                started_ns = deadline_ns - after_ns
                deadline_ns = max(deadline_ns, now_ns + HOLD_NS)
            elif after > 0 and now_ns - deadline_ns > _HELD_UP_NS:
                # It was sent ahead of its deadline, so it was held up on its way (a stopped
                # server, a full pipe), and so is its release, which may be right behind it.
                deadline_ns = now_ns + HOLD_NS
            acquired_ns = deadline_ns - after_ns
        span = None
        if message.traceparent is not None or message.span_id is not None:
            span = (message.traceparent, message.span_id)
        timer = Timer(
            worker,
            scope.name if scope.name == message.scope_id else message.scope_id,
            deadline_ns,
            acquired_ns,
            message.thread,
            message.signal,
            message.expiration_time,
            span,
        )
        if started_ns is not None:
            timer.started_ns = started_ns
        if message.warn_after is not None or self.offsets is not None:
            self._set_checkpoints(timer, message.warn_after)
        return timer

    def _translated(self, worker: Worker, message: Message, now_ns: int) -> int | None:
        """Return the deadline of a worker with other clocks by ours; None for that on the wall."""
        skew_ns, deadline_ns, after = worker.clock_skew_ns, message.deadline_ns, message.after
        if deadline_ns is None or after is None:
            return None
        if skew_ns is not None:
            return deadline_ns - skew_ns
        # How long it was on its way is known by two clocks, of which either may be another one than
        # ours (or have been set since). The shorter time takes nothing from the block.
        after_ns = int(after * NS)
        by_wall = (self._state.clock.time() - message.expiration_time) * NS + after_ns
        on_its_way = min(now_ns - deadline_ns + after_ns, int(by_wall))
        return now_ns + after_ns - max(0, on_its_way)

    def _set_checkpoints(self, timer: Timer[Worker], warn_after: float | None) -> None:
        acquired_ns = timer.acquired_ns
        after_ns = timer.deadline_ns - acquired_ns
        offsets = () if self.offsets is None else self.offsets(after_ns)
        if warn_after is not None:
            warn_ns = int(warn_after * NS)
            timer.warn_ns = acquired_ns + warn_ns
            if warn_ns < after_ns:
                offsets = tuple(sorted({*offsets, warn_ns}))
        timer.checkpoints = tuple([acquired_ns + offset for offset in offsets])

    def _reject(self, reason: str, detail: str, pid: int | None) -> None:
        self._statistics.rejected_for(reason)
        now_ns = self._state.clock.monotonic_ns()
        last_ns, suppressed = self._logged_rejections.get(reason, (-_FOREVER, 0))
        if now_ns - last_ns < _REJECTIONS_LOGGED_EVERY_NS:
            self._logged_rejections[reason] = (last_ns, suppressed + 1)
            return
        self._logged_rejections[reason] = (now_ns, 0)
        self._state.emit(
            RequestRejected, reason=reason, detail=detail, worker_pid=pid, suppressed=suppressed
        )


_REFUSALS: Mapping[str, str] = {
    "protected_process": "pid {pid} is init, this server, an ancestor of it or not a process",
    "other_user": "process {pid} runs as another user than this server",
    "outside_job": "process {pid} is not a descendant of the supervised command",
}
