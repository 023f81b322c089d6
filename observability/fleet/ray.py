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
from ._store import StoreError
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


class RayStore:
    """A store of texts in an actor. A :class:`~._store.Store`; for any thread.

    :param meeting: as of :func:`ray_engine`.
    :param seconds: for how long one call may take.
    """

    def __init__(self, meeting: Any, *, seconds: float = _CALL_SECONDS) -> None:
        self._meeting = meeting
        self._seconds = seconds
        self._ray: Any = importlib.import_module("ray")

    def add(self, key: str, amount: int) -> int:
        """See :class:`~._store.Store`."""
        found = self._call("add", key, amount)
        if not isinstance(found, int):
            raise StoreError("the actor answers with something else than a number")
        return found

    def set(self, key: str, text: str) -> None:
        """See :class:`~._store.Store`."""
        self._call("set", key, text)

    def set_first(self, key: str, text: str) -> str:
        """See :class:`~._store.Store`."""
        [found] = _texts([self._call("set_first", key, text)], 1)
        return found or ""

    def get(self, keys: Sequence[str]) -> list[str | None]:
        """See :class:`~._store.Store`."""
        return _texts(self._call("get", list(keys)), len(keys))

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

    def delete(self, keys: Sequence[str]) -> None:
        """See :class:`~._store.Store`."""
        self._call("delete", list(keys))

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            asked = getattr(self._meeting, method).remote(*arguments)
            return self._ray.get(asked, timeout=self._seconds)
        except Exception as error:  # noqa: BLE001  # as above
            raise _gone(error) from None


def _gone(error: BaseException) -> StoreError:
    first = str(error).strip().partition("\n")[0]
    return StoreError(f"the actor does not answer: {type(error).__name__}: {first[:200]}")


def _texts(found: object, count: int) -> list[str | None]:
    if not isinstance(found, list) or len(found) != count:
        raise StoreError("the actor answers with something else than texts")
    return [text if isinstance(text, str) else None for text in found]
