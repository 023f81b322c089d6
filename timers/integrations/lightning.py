"""A callback for Lightning's ``Trainer``: a deadline for each batch.

Usage::

    from timers.integrations.lightning import timers_callback

    trainer = Trainer(callbacks=[timers_callback(batch_after=300)])
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import timers
from timers.worker.environment import ensure_configured

__all__ = ["timers_callback"]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_KINDS = ("train", "validation", "test", "predict")


def timers_callback(*, batch_after: float = timers.LEARNED) -> Any:
    """Return a callback that guards each batch: ``train_batch``, ``validation_batch`` and so on.

    A block is from ``on_train_batch_start`` to ``on_train_batch_end``; what a batch is waited for
    is not in it. Without a client the one that the environment offers is configured, and without a
    server the callback does nothing.

    :param batch_after: seconds, as for :class:`timers.expires`.
    :raises ModuleNotFoundError: neither ``lightning`` nor ``pytorch_lightning`` is installed.
    :raises ValueError: ``batch_after`` is negative or not finite.
    """
    timers.expires(batch_after, "train_batch")  # refuses what is no duration
    return _callback_class(_package())(batch_after)


def _package() -> str:
    loaded = next((name for name in _PACKAGES if name in sys.modules), None)
    if loaded is not None:
        return loaded
    try:
        importlib.import_module(_PACKAGES[0])
    except ModuleNotFoundError:
        return _PACKAGES[1]
    return _PACKAGES[0]


@functools.cache
def _callback_class(package: str) -> Any:
    base: Any = importlib.import_module(package).Callback

    class TimersCallback(base):  # type: ignore[misc]  # an optional package, of which nothing is known
        """Blocks around the batches of a Trainer, in the thread that runs its loop."""

        def __init__(self, batch_after: float) -> None:
            super().__init__()
            self._batch_after = batch_after

        def __reduce__(self) -> tuple[Any, ...]:
            return functools.partial(timers_callback, batch_after=self._batch_after), ()

        def setup(self, *_arguments: Any, **_keywords: Any) -> None:
            """Have a client, in each process of a Trainer that starts several."""
            ensure_configured()

        def on_exception(self, *_arguments: Any, **_keywords: Any) -> None:
            """Close what is open: the loop goes on nowhere."""
            for kind in _KINDS:
                timers.beat(f"{kind}_batch", after=None)

    for kind in _KINDS:
        _guard_batches(TimersCallback, kind)
    return TimersCallback


def _guard_batches(callback: Any, kind: str) -> None:
    scope = f"{kind}_batch"

    def start(self: Any, *_arguments: Any, **_keywords: Any) -> None:
        timers.beat(scope, after=self._batch_after)

    def end(_self: Any, *_arguments: Any, **_keywords: Any) -> None:
        timers.beat(scope, after=None)

    setattr(callback, f"on_{kind}_batch_start", start)
    setattr(callback, f"on_{kind}_batch_end", end)
