"""The engine for a job of Ray: an actor that all watchdogs of the job call.

What it returns is read as any other host's word: only texts and numbers, within the bounds of
:mod:`._messages`. Ray carries it, by a pickle of its own, as it does all between its processes.
"""

from __future__ import annotations

import importlib
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from timers.linux import procfs

from ._find import Job
from ._store import Store, StoreError
from .fleet import Engine

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RayStore", "ray_engine"]

_CALL_SECONDS = 3.0


def ray_engine(meeting: Any, *, address: str, run_id: str, raylet: int) -> Engine:
    """Return the engine for the watchdog of one node.

    :param meeting: the handle of the actor, :class:`observability.ray._meeting.Meeting`.
    :param address: where people know the cluster by, ``HOST:PORT``.
    :param run_id: what the job is called.
    :param raylet: pid of the node's own process of Ray, with whose end the node has left.
    """
    host, _, port = address.rpartition(":")
    job = Job(
        host=host,
        port=int(port) if port.isdigit() else 0,
        run_id=run_id,
        # Which ranks are here, Ray Train decides later, and again after a failure.
        ranks=(),
        pid=raylet,
        start_time=procfs.start_time(raylet),
        interpreter="",
        environment={},
    )
    return Engine(find=lambda: job, open_store=lambda _: RayStore(meeting))


class RayStore(Store):
    """A store of texts in an actor. For any thread.

    :param meeting: as of :func:`ray_engine`.
    :param seconds: for how long one call may take.
    """

    def __init__(self, meeting: Any, *, seconds: float = _CALL_SECONDS) -> None:
        self._meeting = meeting
        self._seconds = seconds
        self._ray: Any = importlib.import_module("ray")

    def wait(self, keys: Sequence[str], seconds: float) -> Future[bool]:
        """See :class:`~._store.Store`."""
        future: Future[bool] = Future()

        def answered(asked: Future[Any]) -> None:
            error = asked.exception()
            if error is not None:
                future.set_exception(_gone(error))
            else:
                future.set_result(asked.result() is True)

        try:
            self._meeting.wait.remote(list(keys), seconds).future().add_done_callback(answered)
        except Exception as error:  # noqa: BLE001  # Ray has many, and all mean the same here
            raise _gone(error) from None
        return future

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            asked = getattr(self._meeting, method).remote(*arguments)
            return self._ray.get(asked, timeout=self._seconds)
        except Exception as error:  # noqa: BLE001  # as above
            raise _gone(error) from None


def _gone(error: BaseException) -> StoreError:
    first = str(error).strip().partition("\n")[0]
    return StoreError(f"the actor does not answer: {type(error).__name__}: {first[:200]}")
