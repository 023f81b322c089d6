"""Sample the workers of this host, all within one bound: stacks, recorders, children, source.

Samples run on a few threads of their own. Those taken earlier are kept, because what is stuck
shows in that it stays.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from observability.recorder.ask import ask, target_of
from observability.samples.reading import Condition, needs_more_samples
from observability.samples.types import Descendant, Sample, Surroundings, WorkerView
from observability.samples.waits import Peers
from observability.samples.worker import read
from timers.bounded import left
from timers.linux import procfs

from ._blocked import links_of
from ._sample import native_frames, processes_below, surroundings, take_sample

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from observability.recorder.types import Recording
    from observability.samples.reading import Key
    from timers.events import WorkerInfo
    from timers.stacks.take import Frame

__all__ = ["Sampling"]

T = TypeVar("T")

_THREADS = 4
_KEPT = 24
_ROUNDS = 3
_BETWEEN_ROUNDS_SECONDS = 0.2
"""Between samples of the same worker: what is stuck shows in that it stays."""
_BETWEEN_MORE_SECONDS = 0.03
"""Between samples of one that computes, which have to meet it in several of its functions."""
_ASK_SECONDS = 1.5
"""For the recorders. Worker servers take milliseconds, NCCL's pipes up to a second."""


class Sampling:
    """Takes samples and keeps them. Safe from any thread.

    Workers to be sampled are views without samples, with the timer that matters.

    :param native: whether the last stack of a survey is taken with its C frames. Only the last:
        it takes a second and more, in which one that computes could be met many times.
    """

    def __init__(self, *, native: bool = False) -> None:
        self._native = native
        self._lock = threading.Lock()
        self._samples: dict[WorkerInfo, deque[Sample]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="timers-sample")

    def close(self) -> None:
        """End the sampling threads; a sample under way is left to its own bound."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, view: WorkerView, timeout: float, *, native: bool = False) -> Future[Sample]:
        """Sample a worker soon.

        :raises RuntimeError: it is closed, or no more threads are to be had.
        """
        return self._pool.submit(self.sample, view, timeout, native=native)

    def sample(self, view: WorkerView, timeout: float, *, native: bool = False) -> Sample:
        """Sample a worker now, and keep the sample."""
        found = take_sample(
            view.pid,
            thread=view.thread,
            timeout=timeout,
            native=native,
            scope_id=view.scope_id,
        )
        with self._lock:
            self._samples.setdefault(view.worker, deque(maxlen=_KEPT)).append(found)
        return found

    def forget_others(self, known: Collection[WorkerInfo]) -> None:
        """Forget the samples of those that are not known any more."""
        with self._lock:
            for worker in [each for each in self._samples if each not in known]:
                del self._samples[worker]

    def survey(self, workers: Sequence[WorkerView], until: float) -> list[WorkerView]:
        """Sample all of them, several times, and what surrounds them.

        :param until: the moment of ``time.monotonic()`` by which to be done.
        """
        asked = self._pool.submit(_ask, workers, min(_ASK_SECONDS, left(until)))
        for number in range(_ROUNDS):
            if number:
                self._sample_computing(workers, asked, until)
            if not self._sample_all(workers, until):
                break
        recordings = _result(asked, until, {})
        while computing := self._open_ones(workers, recordings):
            time.sleep(_BETWEEN_MORE_SECONDS)
            if not self._sample_all(computing, until):
                break
        if self._native:
            self._sample_all(workers, until, native=True)
        views = [
            replace(each, samples=self._kept(each), recording=recordings.get(each.pid))
            for each in workers
        ]
        threads = {each.pid: each.thread or each.pid for each in views}
        linked = self._pool.submit(links_of, threads, until=until)
        around = {each.pid: self._pool.submit(_around, each, until) for each in views}
        in_backward = self._in_backward(views, until)
        below = {
            each.pid: [
                self._pool.submit(_descendant, child, parent, left(until))
                for child, parent in processes_below(each.pid, without=threads)
            ]
            for each in views
        }
        found = []
        links = _result(linked, until, {})
        for each in views:
            known = _result(around[each.pid], until, each.surroundings)
            known = replace(known, link=links.get(each.pid))
            if each.pid in in_backward:
                known = replace(known, native=_result(in_backward[each.pid], until, ()))
            children = (_result(child, until, None) for child in below[each.pid])
            there = tuple(child for child in children if child is not None)
            found.append(replace(each, surroundings=known, descendants=there))
        return found

    def _sample_computing(
        self,
        workers: Sequence[WorkerView],
        asked: Future[dict[int, Recording]],
        until: float,
    ) -> None:
        """Use the time between two rounds for those of which it takes more samples than these."""
        next_round = min(until, time.monotonic() + _BETWEEN_ROUNDS_SECONDS)
        while (seconds := left(next_round)) > 0:
            time.sleep(min(seconds, _BETWEEN_MORE_SECONDS))
            # Before, nobody knows who waits for the other ranks.
            if asked.done():
                self._sample_all(self._open_ones(workers, _result(asked, until, {})), until)

    def _sample_all(
        self, views: Sequence[WorkerView], until: float, *, native: bool = False
    ) -> bool:
        """Sample each of them once; return whether there is time for more."""
        seconds = left(until)
        wait([self.submit(each, seconds, native=native) for each in views], seconds)
        return left(until) > 2 * _BETWEEN_ROUNDS_SECONDS

    def _kept(self, view: WorkerView) -> tuple[Sample, ...]:
        with self._lock:
            return tuple(self._samples.get(view.worker, ()))

    def _open_ones(
        self, workers: Sequence[WorkerView], recordings: dict[int, Recording]
    ) -> list[WorkerView]:
        """Choose those of which more samples could tell if they get anywhere."""
        return [
            each
            for each in workers
            if not _is_pending(recordings.get(each.pid))
            and (samples := self._kept(each))
            and needs_more_samples(samples, each.thread)
        ]

    def _in_backward(
        self, views: Sequence[WorkerView], until: float
    ) -> dict[int, Future[tuple[Frame, ...]]]:
        """Look into C++ where data-parallel training may wait for its gradients to be reduced.

        Its Python frames look the same when a backward pass is stuck by itself. It costs a second
        of a processor: one of those that are at the same calls stands for all of them.
        """
        alike: dict[Key, Future[tuple[Frame, ...]]] = {}
        found: dict[int, Future[tuple[Frame, ...]]] = {}
        for view in views:
            if not view.samples or _is_pending(view.recording):
                continue
            reading = read(view)
            if reading.reason.peers is not Peers.BY_LIBRARY:
                continue
            if reading.key not in alike:
                alike[reading.key] = self._pool.submit(
                    native_frames, view.pid, view.thread, left(until)
                )
            found[view.pid] = alike[reading.key]
        return found


def _around(view: WorkerView, until: float) -> Surroundings:
    if not view.samples:
        return view.surroundings
    reading = read(view)
    return surroundings(
        view.pid,
        reading,
        thread=view.thread,
        timeout=left(until),
        native=not _is_pending(view.recording) and reading.condition is Condition.RUNNING,
    )


def _is_pending(recording: Recording | None) -> bool:
    """Tell whether a rank's recorder says itself that it waits in an operation."""
    return recording is not None and any(group.pending for group in recording.groups)


def _descendant(pid: int, parent: int, timeout: float) -> Descendant | None:
    sample = take_sample(pid, thread=None, timeout=timeout)
    command = procfs.thread_names(pid).get(pid, "")
    return Descendant(pid=pid, parent=parent, samples=(sample,), command=command)


def _ask(workers: Sequence[WorkerView], timeout: float) -> dict[int, Recording]:
    targets = (
        target_of(each.pid, each.worker.rank, procfs.environment(each.pid))
        for each in workers
        if not _is_stopped(each.pid)  # It would not answer.
    )
    return ask([target for target in targets if target is not None], timeout=timeout)


def _is_stopped(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is None or found.state in "TtZX"


def _result(future: Future[T], until: float, otherwise: T) -> T:
    try:
        return future.result(left(until))
    except Exception:  # noqa: BLE001  # what is known by then is used
        return otherwise
