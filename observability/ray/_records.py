"""A sink that records what is reaped where the error of a task is made: with the other nodes.

A reap is recorded before the kill, which waits for its events within a bound: whoever gets Ray's
error for it finds the record. It is recorded again when the worker is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from observability.fields import stack_fields
from observability.story import ExplainedKill
from observability.untrusted import printable
from timers.events import StackDumped, WorkerKilled
from timers.linux.labels import labels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from observability.story import Stories, Story
    from timers.events import Event, TimerInfo, WorkerInfo


class Records:
    """A sink (:mod:`observability.pipeline`).

    :param record: is given each reap, as :meth:`._meeting.Meeting.record`; may block and raise.
    :param stories: what has been said of workers, by the pipeline that this is a sink of.
    :param host: this node's name in reports.
    """

    name = "ray"

    def __init__(
        self, record: Callable[[Mapping[str, str]], object], stories: Stories, *, host: str
    ) -> None:
        self._record = record
        self._stories = stories
        self._host = host

    def __call__(self, event: Event) -> None:
        """Record a reap that is about to come, or is over."""
        if isinstance(event, WorkerKilled):
            story = event.story if isinstance(event, ExplainedKill) else None
            frame, labels = (story.frame, story.labels) if story else (None, {})
            self._say(event.worker, event.timer, labels, frame, story)
        elif isinstance(event, StackDumped) and event.timer is not None and event.timer.signal > 0:
            if not dict(event.dump.extras).get("expired", True):
                return  # sampled because another one expired
            pid = event.worker.pid
            labels = labels_of(pid, event.timer.thread) if isinstance(pid, int) else {}
            story = self._stories.of(event.worker)
            frame = stack_fields(event.dump, event.timer)["frame"]
            self._say(event.worker, event.timer, labels, frame, story)

    def _say(
        self,
        worker: WorkerInfo,
        timer: TimerInfo,
        labels: Mapping[str, str],
        frame: str | None,
        story: Story | None,
    ) -> None:
        who = f"{worker.name}, pid {worker.pid}" if worker.name else f"pid {worker.pid}"
        attempt = labels.get("ray_attempt", "")
        which = f" (attempt {attempt})" if attempt not in ("", "0") else ""
        at = f", stuck at {frame}" if frame else ""
        # That nobody stands out among tasks that have nothing to do with each other is no news.
        why = f" {story.hang.sentence}" if story and story.hang and story.hang.suspects else ""
        said = (
            f"timers: {timer.scope_id}{which} was reaped on {self._host} ({who}), because it took"
            f" more than {timer.after_seconds:.3g} s{at}.{why}"
        )
        self._record(
            {
                "task_id": labels.get("ray_task_id", ""),
                "actor_id": labels.get("ray_actor_id", ""),
                "attempt": attempt,
                "said": printable(said),
            }
        )
