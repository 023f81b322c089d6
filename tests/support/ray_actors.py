"""Ray's part in calls of an actor, played in this process: one event loop, references, ``get``."""

from __future__ import annotations

import asyncio
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Handle", "Reference", "fake_ray"]


class Reference:
    """To what a call returns."""

    def __init__(self, result: Future[Any]) -> None:
        self._result = result

    def future(self) -> Future[Any]:
        return self._result


class _Method:
    def __init__(self, handle: Handle, name: str) -> None:
        self._handle, self._name = handle, name

    def remote(self, *arguments: Any) -> Reference:
        if self._handle.is_dead:
            raise RuntimeError("the actor is dead")
        call = getattr(self._handle.actor, self._name)(*arguments)
        return Reference(asyncio.run_coroutine_threadsafe(call, self._handle.loop))


class Handle:
    """Of an actor with ``async`` methods."""

    def __init__(self, actor: object) -> None:
        self.actor = actor
        self.is_dead = False
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, name)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._cancel)
        self._thread.join(10)
        self.loop.close()

    def _cancel(self) -> None:
        waits = asyncio.all_tasks(self.loop)
        for wait in waits:
            wait.cancel()
        gathered = asyncio.gather(*waits, return_exceptions=True)
        gathered.add_done_callback(lambda _: self.loop.stop())
        if not waits:
            self.loop.stop()


def fake_ray() -> Any:
    """Return a module with ``get`` for such references."""
    ray: Any = ModuleType("ray")
    ray.get = lambda reference, timeout: reference.future().result(timeout)
    return ray
