"""This host's part in the roll calls of a job: finds the job, joins its store, calls, answers.

One thread does all that may block on the store. Nobody waits for it beyond a bound: without a job
of several hosts, without a store, or with one that is gone, a host goes on with what it knows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from timers.bounded import left

from ._c10d import C10dStore
from ._find import find_job, is_there
from ._store import StoreError
from .exchange import Exchange, RollCall, Shared, with_unheard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from observability.hang.types import HangReport
    from observability.samples.types import WorkerView
    from timers.events import WorkerInfo

    from ._find import Job
    from ._store import Store

    T = TypeVar("T")
    _Request = tuple[Callable[[Exchange], Any], Future[Any]]

__all__ = ["Engine", "Fleet"]

_logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
"""How often the workers are looked for, and whether their store is still the same one."""
_SOON, _SELDOM = 30, 5
"""After so many looks that found no job of several hosts there are so many times fewer: each reads
a little of every process, and workers of such a job need longer to load torch."""
_WAIT_SECONDS = 120.0
"""How long one wait for a roll call is, at the store."""
_RETRY_SECONDS = (2.0, 30.0)
"""After a store that could not be joined: at first, and at most."""
_MOST_ANSWERED = 6
_PER_SECONDS = 60.0
"""So many roll calls of others are answered in such a time: sampling costs the workers time."""
_COLLECT_SHARE = 0.75
"""Of the time until a kill, after which the one that called goes on with what it has got."""
_HANDED_OUT_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Engine:
    """By what the hosts of a job reach each other, and how the job is found."""

    find: Callable[[], Job | None]
    open_store: Callable[[Job], Store]


class Fleet:
    """Takes part in roll calls over many hosts.

    :param host: this machine's name.
    :param seconds: the bound of one roll call.
    :param known_workers: returns the registered workers of this host.
    :param refuse: called with the reason and the details for what is not used; from its thread.
    :param say: called with what a person should know and how grave it is (``info`` or
        ``warning``); from its thread.
    :param engine: by default that of torchrun's store, for a job that is found among the workers
        and what descends from this process.
    """

    def __init__(
        self,
        *,
        host: str,
        seconds: float,
        known_workers: Callable[[], Sequence[WorkerInfo]],
        refuse: Callable[[str, str], None],
        say: Callable[[str, str], None],
        engine: Engine | None = None,
    ) -> None:
        self._host = host
        self._seconds = seconds
        self._known_workers = known_workers
        self._refuse = refuse
        self._say = say
        engine = engine or Engine(self._search, _c10d)
        self._find, self._open_store = engine.find, engine.open_store
        self.answer: Callable[[RollCall, float], None] = lambda _call, _until: None
        """Called on a thread of its own for a roll call of another host, with the moment of
        time.monotonic() by which to have shared."""
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        """What the thread is to do; None to wake it."""
        self._stop = threading.Event()
        self.is_joined = False
        """Whether other hosts can be called at this moment."""
        self._has_joined = threading.Event()
        self._job: Job | None = None
        self._answered: deque[float] = deque(maxlen=_MOST_ANSWERED)
        self._watchdog: str | None = None
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="timers-fleet", daemon=True)

    def wait_until_joined(self, seconds: float) -> bool:
        """Wait until other hosts could be called for the first time; return whether they can."""
        return self._has_joined.wait(seconds)

    def start(self) -> None:
        """Begin to look for a job of several hosts.

        :raises RuntimeError: no thread can be started.
        """
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Take no part any more; idempotent."""
        self._stop.set()
        self._requests.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    # -- for the roll call of this host -----------------------------------------------------------

    def announce(self, until: float) -> Future[RollCall | None]:
        """Call the roll of all hosts, or join the one that was called just before. Never blocks.

        :param until: the moment of time.monotonic() until which this host waits.
        """
        return self._ask(lambda exchange: exchange.announce(left(until)))

    def agree(
        self,
        announced: Future[RollCall | None] | RollCall,
        views: Sequence[WorkerView],
        world_size: int | None,
        alone: HangReport,
        until: float,
    ) -> Shared:
        """Hand the part of this host over; return the report of all hosts.

        Blocks until ``until`` at most. Never raises.

        :param announced: what :meth:`announce` returned, or a roll call that is answered.
        :param alone: the report of this host alone, for when there is no other in time.
        """
        try:
            call = (
                announced if isinstance(announced, RollCall) else announced.result(left(until) / 4)
            )
            shared = None if call is None else self._share(call, views, world_size, until)
        except Exception as error:  # noqa: BLE001  # this host goes on alone
            self._lost(error)
            return Shared(with_unheard(alone, ("all other hosts (no store)",)), counts=True)
        if shared is None:
            caller = "the host that called" if call is None else f"{call.host}, which called,"
            return Shared(with_unheard(alone, (f"{caller} handed no report out",)), counts=True)
        return shared

    def confirm(self, shared: Shared, until: float) -> None:
        """Say that a report was made known here; wait until it was everywhere, a second at most.

        To be called before anything is killed. Never raises.

        :param until: the moment of time.monotonic() by which to be done.
        """
        number = shared.number
        if number is None:
            return
        with contextlib.suppress(StoreError, TimeoutError):
            self._ask(lambda exchange: exchange.confirm(number, until)).result(left(until))
        self._ask(self._tidy)

    def _tidy(self, exchange: Exchange) -> None:
        """Remove the parts, which nobody waits for: a few, and then whatever else is asked for."""
        if exchange.tidy():
            self._ask(self._tidy)

    def _share(
        self, call: RollCall, views: Sequence[WorkerView], world_size: int | None, until: float
    ) -> Shared | None:
        seconds, now = left(until), time.monotonic()
        return self._ask(
            lambda exchange: exchange.share(
                call,
                views,
                world_size,
                collect_until=now + _COLLECT_SHARE * seconds,
                until=now + _HANDED_OUT_SHARE * seconds,
            )
        ).result(seconds)

    def _ask(self, call: Callable[[Exchange], T]) -> Future[T]:
        future: Future[T] = Future()
        if self.is_joined and not self._stop.is_set():
            self._requests.put((call, future))
        else:
            future.set_exception(StoreError("this host has not joined"))
        return future

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        retry, most = _RETRY_SECONDS
        in_vain = 0
        while not self._stop.is_set():
            try:
                job = self._find()
            except Exception:
                _logger.exception("could not look for a job of several hosts")
                job = None
            if job is None:
                in_vain += 1
                self._stop.wait(_LOOK_SECONDS * (1 if in_vain < _SOON else _SELDOM))
                continue
            in_vain = 0
            try:
                store = self._open_store(job)
            except (StoreError, OSError) as error:
                self._note(
                    f"the store of the job at {job.host}:{job.port} cannot be joined: {error}"
                )
                self._stop.wait(retry)
                retry = min(2 * retry, most)
                continue
            retry = _RETRY_SECONDS[0]
            try:
                self._take_part(job, store)
            except Exception as error:  # noqa: BLE001  # whatever it is, another store may do
                self._lost(error)
            finally:
                self._leave(store)

    def _take_part(self, job: Job, store: Store) -> None:
        exchange = Exchange(
            store,
            host=self._host,
            ranks=job.ranks,
            refuse=self._refuse,
            watchdog=self._watchdog,
        )
        self._watchdog = exchange.presence.watchdog
        exchange.join()
        self._job, self.is_joined = job, True
        self._has_joined.set()
        self._said.clear()
        place = f"{job.host}:{job.port}"
        self._say(f"takes part in the roll calls of all hosts, by the store at {place}", "info")
        waiting = self._wait_for_call(exchange)
        looked = time.monotonic()
        while not self._stop.is_set():
            self._perform_next(exchange)
            if waiting.done():
                self._take_call(exchange, came=waiting.result())
                waiting = self._wait_for_call(exchange)
            if time.monotonic() - looked >= _LOOK_SECONDS:
                looked = time.monotonic()
                if self._has_changed(job):
                    break
        exchange.leave()

    def _wait_for_call(self, exchange: Exchange) -> Future[bool]:
        waiting = exchange.wait_for_call(_WAIT_SECONDS)
        waiting.add_done_callback(lambda _: self._requests.put(None))
        return waiting

    def _take_call(self, exchange: Exchange, *, came: bool) -> None:
        """Have a roll call answered that has been announced."""
        call = exchange.take_call() if came else None
        if call is None or call.is_mine or not self._may_answer(call):
            return
        until = time.monotonic() + min(call.seconds or self._seconds, self._seconds)
        threading.Thread(
            target=self.answer, args=(call, until), name="timers-fleet-answer", daemon=True
        ).start()

    def _perform_next(self, exchange: Exchange) -> None:
        """Do what this host's roll call asks for, if it does within a while."""
        try:
            request = self._requests.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            return
        if request is None:
            return
        call, future = request
        try:
            future.set_result(call(exchange))
        except BaseException as error:
            future.set_exception(error)
            raise

    def _may_answer(self, call: RollCall) -> bool:
        now = time.monotonic()
        full = len(self._answered) == _MOST_ANSWERED
        if full and now - self._answered[0] < _PER_SECONDS:
            self._refuse("too_many", f"a roll call of {call.host}: too many of them")
            return False
        self._answered.append(now)
        return True

    def _has_changed(self, job: Job) -> bool:
        if is_there(job):
            return False
        found = self._find()
        if found is not None and found.place == job.place:
            self._job = found
            return False
        # Between two attempts there are no workers; the store stays, and so does this host.
        return found is not None

    def _search(self) -> Job | None:
        known = self._known_workers()
        return find_job(known, [os.getpid()], timeout=_LOOK_SECONDS / 4)

    def _leave(self, store: Store) -> None:
        self.is_joined = False
        while True:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                break
            if request is not None:
                request[1].set_exception(StoreError("left the store"))
        store.close()

    def _lost(self, error: BaseException) -> None:
        # At the end of a job its store ends, too.
        if self._job is None or is_there(self._job):
            self._note(f"the store of the job does not answer, this host goes on alone: {error}")

    def _note(self, message: str) -> None:
        """Say something once until a store was joined again."""
        kind = message.partition(":")[0]
        if kind not in self._said and not self._stop.is_set():
            self._said.add(kind)
            self._say(message, "warning")


def _c10d(job: Job) -> Store:
    return C10dStore(job.interpreter, job.environment, (job.host, job.port))
