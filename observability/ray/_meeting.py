"""The actor at which the watchdogs of a job meet: texts for their roll calls, and what was reaped.

Whoever is in the cluster can call it. So there are bounds to all that it keeps, and those who read
it take nothing on trust.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST_TEXTS = 100_000
_MOST_CHARACTERS = 64 << 20
_LONGEST_TEXT = 4 << 20
_LONGEST_KEY = 200
_MOST_AT_ONCE = 1024
_MOST_WAITING = 20_000
_MOST_REAPS = 1000
_LONGEST_RECORD = 4000
_NAMES = ("task_id", "actor_id", "said", "attempt")


class Meeting:
    """Texts by key, as :class:`observability.fleet._store.Store`, and records of reaps.

    An actor with ``async`` methods: each call is one step of its event loop, so that nothing here
    needs a lock, and a wait holds up nobody.
    """

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._characters = 0
        self._waiting: list[tuple[frozenset[str], asyncio.Future[None]]] = []
        self._reaps: deque[dict[str, str]] = deque(maxlen=_MOST_REAPS)

    async def add(self, key: str, amount: int) -> int:
        """Add to a number, which begins at 0; return it."""
        total = int(self._texts.get(key, "0")) + int(amount)
        self._put(key, str(total))
        return total

    async def set(self, key: str, text: str) -> None:
        """Store a text."""
        self._put(key, text)

    async def set_first(self, key: str, text: str) -> str:
        """Store a text unless there is one; return what is there then."""
        if key not in self._texts:
            self._put(key, text)
        return self._texts[key]

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        """Return what is there, None for what is not."""
        if len(keys) > _MOST_AT_ONCE:
            raise ValueError(f"{len(keys)} texts at once, at most {_MOST_AT_ONCE}")
        return [self._texts.get(key) for key in keys]

    async def wait(self, keys: Sequence[str], seconds: float) -> bool:
        """Wait until all of them are there, for so long; return whether they are."""
        if len(keys) > _MOST_AT_ONCE or len(self._waiting) >= _MOST_WAITING:
            raise ValueError("too many waits, or for too many texts")
        missing = frozenset(keys) - self._texts.keys()
        if not missing:
            return True
        waiting = (missing, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            await asyncio.wait_for(waiting[1], seconds)
        except TimeoutError:
            return False
        finally:
            self._waiting = [each for each in self._waiting if each is not waiting]
        return True

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove texts."""
        for key in keys:
            self._characters -= len(self._texts.pop(key, ""))

    def _put(self, key: str, text: str) -> None:
        if not (isinstance(key, str) and isinstance(text, str)):
            raise TypeError("keys and texts are str")
        if len(key) > _LONGEST_KEY or len(text) > _LONGEST_TEXT:
            raise ValueError(f"a key or a text is too long: {key[:_LONGEST_KEY]!r}")
        self._characters += len(text) - len(self._texts.get(key, ""))
        self._texts[key] = text
        if len(self._texts) > _MOST_TEXTS or self._characters > _MOST_CHARACTERS:
            self._drop_reports()
        for missing, future in self._waiting:
            if not future.done() and missing <= self._texts.keys():
                future.set_result(None)

    def _drop_reports(self) -> None:
        """Make room: those who wait for a report of long ago wait no more."""
        old = [key for key in self._texts if key.startswith(("report/", "part/"))]
        for key in old[: len(old) // 2 + 1]:
            self._characters -= len(self._texts.pop(key))
        if len(self._texts) > _MOST_TEXTS or self._characters > _MOST_CHARACTERS:
            self._texts.clear()
            self._characters = 0

    # -- what was reaped ------------------------------------------------------------------------

    async def record(self, reap: Mapping[str, str]) -> None:
        """Keep what there is to say of a task that is reaped.

        :param reap: ``task_id`` and ``actor_id`` of Ray, and ``said``, in words; a later one of the
            same attempt of a task replaces an earlier one, where ``attempt`` says which it is.
        """
        kept = {name: str(reap.get(name, ""))[:_LONGEST_RECORD] for name in _NAMES}
        same = kept["task_id"], kept["attempt"]
        known = [each for each in self._reaps if (each["task_id"], each["attempt"]) != same]
        self._reaps = deque([*known, kept], maxlen=_MOST_REAPS)

    async def reaped(self, task_id: str, actor_id: str) -> list[str]:
        """Return what there is to say of the reaps of a task, else of those of an actor."""
        of_task = [each["said"] for each in self._reaps if task_id and each["task_id"] == task_id]
        if of_task:
            return of_task
        return [each["said"] for each in self._reaps if actor_id and each["actor_id"] == actor_id]
