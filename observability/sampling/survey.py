"""Sample the workers of this host, all within one bound: stacks, recorders, children, source.

Samples run on a few threads of their own. Those taken earlier are kept, because what is stuck
shows in that it stays.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from observability.recorder.ask import ask, target_of
from observability.samples.reading import Condition, needs_more_samples
from observability.samples.types import Descendant, Sample, WorkerView
from observability.samples.waits import Peers
from observability.samples.worker import read
from timers.bounded import left
from timers.linux import procfs

from ._blocked import links_of
from ._sample import native_frames, processes_below, surroundings, take_sample

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from observability.recorder.types import Recording
    from observability.samples.reading import Key
    from timers.events import WorkerInfo
    from timers.stacks.take import Frame

__all__ = ["Sampling", "Watched"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A worker to be sampled, with the timer that matters; without a timer the rest is unknown."""

    worker: WorkerInfo
    scope_id: str | None = None
    thread: int | None = None
    """Native id of the thread that holds the timer."""
    expired: bool = False
    after_seconds: float | None = None
    elapsed_seconds: float | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        return int(self.worker.pid)


class Sampling:
    """Takes samples and keeps them. Safe from any thread.

    :param host: this machine's name.
    :param native: whether the last stack of a survey is taken with its C frames. Only the last:
        it takes a second and more, in which one that computes could be met many times.
    """

    def __init__(self, *, host: str = "", native: bool = False) -> None:
        self._host = host
        self._native = native
        self._lock = threading.Lock()
        self._samples: dict[WorkerInfo, deque[Sample]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="timers-sample")

    def close(self) -> None:
        """End the sampling threads; a sample under way is left to its own bound."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, watched: Watched, timeout: float, *, native: bool = False) -> Future[Sample]:
        """Sample a worker soon.

        :raises RuntimeError: it is closed, or no more threads are to be had.
        """
        return self._pool.submit(self.sample, watched, timeout, native=native)

    def sample(self, watched: Watched, timeout: float, *, native: bool = False) -> Sample:
        """Sample a worker now, and keep the sample."""
        found = take_sample(
            watched.pid,
            thread=watched.thread,
            timeout=timeout,
            native=native,
            scope_id=watched.scope_id,
        )
        with self._lock:
            self._samples.setdefault(watched.worker, deque(maxlen=_KEPT)).append(found)
        return found

    def forget_others(self, known: Collection[WorkerInfo]) -> None:
        """Forget the samples of those that are not known any more."""
        with self._lock:
            for worker in [each for each in self._samples if each not in known]:
                del self._samples[worker]

    def survey(self, all_watched: Sequence[Watched], until: float) -> list[WorkerView]:
        """Sample all of them, several times, and what surrounds them.

        :param until: the moment of ``time.monotonic()`` by which to be done.
        """
        asked = self._pool.submit(_ask, all_watched, min(_ASK_SECONDS, left(until)))
        for number in range(_ROUNDS):
            if number:
                self._sample_computing(all_watched, asked, until)
            if not self._sample_all(all_watched, until):
                break
        recordings = _result(asked, until, {})
        while computing := self._open_ones(all_watched, recordings):
            time.sleep(_BETWEEN_MORE_SECONDS)
            if not self._sample_all(computing, until):
                break
        if self._native:
            self._sample_all(all_watched, until, native=True)
        members = {each.pid for each in all_watched}
        threads = {each.pid: each.thread or each.pid for each in all_watched}
        linked = self._pool.submit(links_of, threads, until=until)
        views = {
            each.pid: self._pool.submit(self._view, each, recordings, until) for each in all_watched
        }
        in_backward = self._in_backward(all_watched, recordings, until)
        below = {each.pid: self._below(each.pid, members, until) for each in all_watched}
        found = []
        links = _result(linked, until, {})
        for each in all_watched:
            view = _result(views[each.pid], until, self._plain_view(each, recordings))
            around = replace(view.surroundings, link=links.get(each.pid))
            if each.pid in in_backward:
                around = replace(around, native=_result(in_backward[each.pid], until, ()))
            children = tuple(_descendants(below[each.pid], until))
            found.append(replace(view, surroundings=around, descendants=children))
        return found

    def _sample_computing(
        self,
        all_watched: Sequence[Watched],
        asked: Future[dict[int, Recording]],
        until: float,
    ) -> None:
        """Use the time between two rounds for those of which it takes more samples than these."""
        next_round = min(until, time.monotonic() + _BETWEEN_ROUNDS_SECONDS)
        while (seconds := left(next_round)) > 0:
            time.sleep(min(seconds, _BETWEEN_MORE_SECONDS))
            # Before, nobody knows who waits for the other ranks.
            if asked.done():
                self._sample_all(self._open_ones(all_watched, _result(asked, until, {})), until)

    def _sample_all(
        self, all_watched: Sequence[Watched], until: float, *, native: bool = False
    ) -> bool:
        """Sample each of them once; return whether there is time for more."""
        seconds = left(until)
        wait([self.submit(each, seconds, native=native) for each in all_watched], seconds)
        return left(until) > 2 * _BETWEEN_ROUNDS_SECONDS

    def _kept(self, watched: Watched) -> tuple[Sample, ...]:
        with self._lock:
            return tuple(self._samples.get(watched.worker, ()))

    def _open_ones(
        self, all_watched: Sequence[Watched], recordings: dict[int, Recording]
    ) -> list[Watched]:
        """Choose those of which more samples could tell if they get anywhere."""
        return [
            each
            for each in all_watched
            if not _is_pending(recordings.get(each.pid))
            and (samples := self._kept(each))
            and needs_more_samples(samples, each.thread)
        ]

    def _plain_view(self, watched: Watched, recordings: dict[int, Recording]) -> WorkerView:
        return WorkerView(
            worker=watched.worker,
            host=self._host,
            samples=self._kept(watched),
            scope_id=watched.scope_id,
            thread=watched.thread,
            expired=watched.expired,
            after_seconds=watched.after_seconds,
            elapsed_seconds=watched.elapsed_seconds,
            recording=recordings.get(watched.pid),
        )

    def _view(self, watched: Watched, recordings: dict[int, Recording], until: float) -> WorkerView:
        view = self._plain_view(watched, recordings)
        if not view.samples:
            return view
        reading = read(view)
        around = surroundings(
            watched.pid,
            reading,
            thread=watched.thread,
            timeout=left(until),
            native=not _is_pending(view.recording) and reading.condition is Condition.RUNNING,
        )
        return replace(view, surroundings=around)

    def _in_backward(
        self, all_watched: Sequence[Watched], recordings: dict[int, Recording], until: float
    ) -> dict[int, Future[tuple[Frame, ...]]]:
        """Look into C++ where data-parallel training may wait for its gradients to be reduced.

        Its Python frames look the same when a backward pass is stuck by itself. It costs a second
        of a processor: one of those that are at the same calls stands for all of them.
        """
        alike: dict[Key, Future[tuple[Frame, ...]]] = {}
        found: dict[int, Future[tuple[Frame, ...]]] = {}
        for each in all_watched:
            view = self._plain_view(each, recordings)
            if not view.samples or _is_pending(view.recording):
                continue
            reading = read(view)
            if reading.reason.peers is not Peers.BY_LIBRARY:
                continue
            if reading.key not in alike:
                alike[reading.key] = self._pool.submit(
                    native_frames, each.pid, each.thread, left(until)
                )
            found[each.pid] = alike[reading.key]
        return found

    def _below(
        self, pid: int, members: Collection[int], until: float
    ) -> list[tuple[int, int, Future[Sample]]]:
        return [
            (
                child,
                parent,
                self._pool.submit(take_sample, child, thread=None, timeout=left(until)),
            )
            for child, parent in processes_below(pid, without=members)
        ]


def _is_pending(recording: Recording | None) -> bool:
    """Tell whether a rank's recorder says itself that it waits in an operation."""
    return recording is not None and any(group.pending for group in recording.groups)


def _descendants(
    below: Iterable[tuple[int, int, Future[Sample]]], until: float
) -> Iterable[Descendant]:
    for child, parent, sampled in below:
        wait([sampled], left(until))
        if sampled.done() and sampled.exception() is None:
            command = procfs.thread_names(child).get(child, "")
            yield Descendant(pid=child, parent=parent, samples=(sampled.result(),), command=command)


def _ask(all_watched: Sequence[Watched], timeout: float) -> dict[int, Recording]:
    targets = (
        target_of(each.pid, each.worker.rank, procfs.environment(each.pid))
        for each in all_watched
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
