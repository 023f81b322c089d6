"""Real jobs that hang, and what a timer server would see of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from observability.samples.reading import needs_more_samples
from observability.samples.types import Descendant, Sample, WorkerView
from observability.samples.worker import read
from observability.sampling._sample import processes_below, surroundings, take_sample
from support.processes import VICTIMS
from support.waiting import eventually
from timers.events import WorkerInfo
from timers.linux import procfs
from timers.stacks.take import take

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["Job", "job"]

MEETINGS = ("meet_barrier", "meet_exchange", "meet_flag", "meet_all_reduce")
BETWEEN_ROUNDS = 0.2
"""Seconds. A look is a sample: time has to pass between two of them for anything to be seen."""


@dataclass
class Job:
    """A running job, by rank."""

    pids: dict[int, int] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=dict)
    """Exit codes as of :mod:`multiprocessing`: negative for a signal."""

    def views(
        self,
        *,
        rounds: int = 3,
        scope: str | None = "step",
        without_timer: Collection[int] = (),
    ) -> list[WorkerView]:
        """What a server knows after that many rounds of samples at everybody.

        Those who compute are then looked at more often, as the server does.
        """
        samples: dict[int, list[Sample]] = {rank: [] for rank in self.present}
        for number in range(rounds):
            if number:
                threading.Event().wait(BETWEEN_ROUNDS)
            for rank, pid in self.present.items():
                samples[rank].append(take_sample(pid, thread=pid, timeout=30))
        for rank, pid in self.present.items():
            while rounds > 1 and needs_more_samples(samples[rank], pid):
                threading.Event().wait(random.uniform(0.01, 0.04))
                samples[rank].append(take_sample(pid, thread=pid, timeout=30))
        return [
            self._with_surroundings(view)
            for view in self._plain_views(samples, scope=scope, without_timer=without_timer)
        ]

    def _plain_views(
        self,
        samples: dict[int, list[Sample]],
        *,
        scope: str | None,
        without_timer: Collection[int],
    ) -> Iterator[WorkerView]:
        for rank, pid in self.pids.items():
            yield WorkerView(
                worker=WorkerInfo(pid=pid, rank=rank, local_rank=rank),
                host="node1",
                samples=tuple(samples.get(rank, ())),
                gone=_how(self.ended.get(rank)),
                unclean=self.ended.get(rank, 0) != 0,
                scope_id=None if rank in without_timer else scope,
                thread=None if rank in without_timer else pid,
                expired=rank not in without_timer and rank not in self.ended,
                descendants=() if rank in self.ended else tuple(_below(pid)),
            )

    def _with_surroundings(self, view: WorkerView) -> WorkerView:
        if not view.samples:
            return view
        pid = int(view.worker.pid)
        around = surroundings(pid, read(view), thread=pid, timeout=30, native=False)
        return replace(view, surroundings=around)

    @property
    def present(self) -> dict[int, int]:
        return {rank: pid for rank, pid in self.pids.items() if rank not in self.ended}


def _below(pid: int) -> Iterator[Descendant]:
    for child, parent in processes_below(pid):
        sample = take_sample(child, thread=None, timeout=30)
        command = procfs.thread_names(child).get(child, "")
        yield Descendant(pid=child, parent=parent, samples=(sample,), command=command)


def _how(code: int | None) -> str | None:
    if code is None:
        return None
    return f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"


@contextlib.contextmanager
def job(
    size: int, meeting: str, cause: str, odd: Collection[int] | str, *, victim: str = "hang_job"
) -> Iterator[Job]:
    """Start a job of ``tests/victims/hang_job.py``; entered once each rank is where it hangs."""
    odd_ranks = set(range(size)) if isinstance(odd, str) else set(odd)
    words = odd if isinstance(odd, str) else ",".join(map(str, odd))
    with tempfile.TemporaryDirectory() as directory:
        fifo = os.path.join(directory, "storage")
        os.mkfifo(fifo)
        # Somebody has it open for writing, as a storage server that does not answer.
        descriptor = os.open(fifo, os.O_RDWR)
        process = subprocess.Popen(
            [
                sys.executable,
                str(VICTIMS / f"{victim}.py"),
                str(size),
                meeting,
                cause,
                words,
                fifo,
                os.path.join(directory, "flag"),
            ],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(VICTIMS.parent)},
        )
        try:
            yield _settled(process, size, meeting, cause, odd_ranks)
        finally:
            os.close(descriptor)
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _settled(
    process: subprocess.Popen[bytes], size: int, meeting: str, cause: str, odd: Collection[int]
) -> Job:
    found = Job()
    assert process.stdout is not None
    expected_to_end = len(odd) if cause in ("killed", "exiting") else 0
    while len(found.pids) < size or len(found.ended) < expected_to_end:
        line = process.stdout.readline()
        assert line, f"the job ended with exit code {process.wait()}"
        said: dict[str, Any] = json.loads(line)
        if "ended" in said:
            found.ended[said["rank"]] = said["ended"]
        else:
            found.pids[said["rank"]] = said["pid"]
    for rank, pid in found.present.items():
        inside = (cause,) if rank in odd and cause != "doing_nothing" else MEETINGS
        eventually(
            lambda pid=pid, inside=inside: _is_inside(pid, inside),  # type: ignore[misc]  # bound
            f"rank {rank} is in {inside}",
            timeout=60,
        )
    # What a rank in its cause starts or waits for takes another moment to come to rest.
    if cause not in _NEVER_AT_REST and meeting != "flag":
        pids = list(found.present.values())
        eventually(lambda: _rest(pids), "all ranks rest", timeout=60)
    found.pids = dict(sorted(found.pids.items()))
    return found


_NEVER_AT_REST = ("counting", "matching", "slowly", "busily", "napping")


def _is_inside(pid: int, functions: Collection[str]) -> bool:
    dump = take(pid, timeout=30)
    if dump.facts.state in ("stopped", "uninterruptible"):
        return True
    return any(
        frame.function.rpartition(".")[2] in functions
        for stack in dump.threads
        if stack.thread == pid
        for frame in stack.frames
    )


def _rest(pids: Collection[int]) -> bool:
    """Whether the processes and all they started have been the same for a moment."""
    before = [_activity(pid) for pid in pids]
    threading.Event().wait(0.1)
    return before == [_activity(pid) for pid in pids]


def _activity(pid: int) -> list[object]:
    seen: list[object] = []
    pids = [pid]
    while pids:
        each = pids.pop()
        children = procfs.children(each)
        seen.append(
            (each, children, procfs.voluntary_switches(each, each), procfs.thread_states(each))
        )
        pids += children
    return seen
