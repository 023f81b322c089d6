"""A callback for Hugging Face's ``Trainer``: a deadline for each step.

Usage::

    from timers.integrations.transformers import timers_callback

    trainer = Trainer(..., callbacks=[timers_callback(step_after=300)])
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import timers
from timers.worker.environment import ensure_configured

__all__ = ["timers_callback"]

_STEP = "train_step"


def timers_callback(*, step_after: float = timers.LEARNED) -> Any:
    """Return a callback that guards each step of training.

    The block ``train_step`` is from ``on_step_begin`` to ``on_step_end``, all its gradient
    accumulation included. A training that raises leaves it open, because the Trainer does not say
    so: a process that lives on has to call ``timers.beat("train_step", after=None)``.
    Without a client the one that the environment offers is configured, and without a server the
    callback does nothing.

    :param step_after: seconds, as for :class:`timers.expires`.
    :raises ModuleNotFoundError: ``transformers`` is not installed.
    :raises ValueError: ``step_after`` is negative or not finite.
    """
    timers.expires(step_after, _STEP)  # refuses what is no duration
    return _callback_class()(step_after)


@functools.cache
def _callback_class() -> Any:
    base: Any = importlib.import_module("transformers").TrainerCallback

    class TimersCallback(base):  # type: ignore[misc]  # an optional package, of which nothing is known
        """Blocks around the steps of a Trainer, in the thread that runs its loop."""

        def __init__(self, step_after: float) -> None:
            self._step_after = step_after

        def __reduce__(self) -> tuple[Any, ...]:
            return functools.partial(timers_callback, step_after=self._step_after), ()

        def on_init_end(self, *_arguments: Any, **_keywords: Any) -> None:
            """Have a client."""
            ensure_configured()

        def on_step_begin(self, *_arguments: Any, **_keywords: Any) -> None:
            """Open the block of a step."""
            timers.beat(_STEP, after=self._step_after)

        def on_step_end(self, *_arguments: Any, **_keywords: Any) -> None:
            """Close it."""
            timers.beat(_STEP, after=None)

        def on_train_end(self, *_arguments: Any, **_keywords: Any) -> None:
            """Close what is open: the loop has ended."""
            timers.beat(_STEP, after=None)

    return TimersCallback
