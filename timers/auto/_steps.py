"""Steps of an optimizer and batches of a DataLoader.

A step is from the end of one ``Optimizer.step`` to the end of the next, in one thread. Nobody says
which one is the last. So the deadline of a step is one only where a DataLoader has handed over the
batch for it: its end, and a batch of another one (an evaluation), end the step as well. Elsewhere
steps are timed and never expire: a job that stands still is found by the stall watch.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from ._blocks import Hook, skipped_by_dynamo

if TYPE_CHECKING:
    from types import ModuleType

    from timers.worker.scopes import expires

_steps = Hook("step")
_batches = Hook("batch")


class _Thread(threading.local):
    """What a thread trains with."""

    def __init__(self) -> None:
        self.training = _Training()


class _Training:
    def __init__(self) -> None:
        self.step: expires | None = None
        self.batches: weakref.ref[Any] | None = None
        """The iterator that the last batch is from; None when there are no more."""
        self.pid = 0

    def end_step(self, _gone: object = None) -> None:
        step, self.step = self.step, None
        _steps.end(step)

    def next_step(self) -> None:
        self.end_step()
        if self.pid != os.getpid():
            self.pid = os.getpid()
            # Or the process would end within a block, as one that dies. Also in a child of
            # multiprocessing, which leaves atexit out.
            from multiprocessing.util import Finalize  # noqa: PLC0415  # torch has loaded it

            Finalize(None, self.end_step, exitpriority=0)
        fed = self.batches is not None and self.batches() is not None
        self.step = _steps.begin("step", timed=fed)

    def batch_from(self, iterator: object) -> None:
        if self.batches is None or self.batches() is not iterator:
            self.end_step()
            # It goes when its loop is left early.
            self.batches = weakref.ref(iterator, self.end_step)

    def no_more_batches(self) -> None:
        self.batches = None
        self.end_step()


_here = _Thread()


def end_step() -> None:
    """End the step of the calling thread, if there is one: what comes next is none."""
    _here.training.end_step()


def install_steps(module: ModuleType) -> None:
    """Time the steps of all optimizers: torch's own hook for that.

    :param module: ``torch.optim.optimizer``.
    """
    torch: Any = sys.modules["torch"]

    def stepped(_optimizer: object, _arguments: object, _keywords: object) -> None:
        # Must come first: where an optimizer is compiled, the compiler sees this function.
        if torch.compiler.is_compiling():
            return
        if not _steps.is_off:
            _here.training.next_step()

    module.register_optimizer_step_post_hook(stepped)


def install_batches(module: ModuleType) -> None:
    """Time what each batch of a DataLoader is waited for.

    :param module: ``torch.utils.data.dataloader``.
    """
    iterator: Any = module._BaseDataLoaderIter  # noqa: SLF001  # torch has no hook for it
    next_of = iterator.__next__

    @functools.wraps(next_of)
    def __next__(self: Any) -> Any:  # noqa: N807  # named in stacks as what it stands for
        training = _here.training
        training.batch_from(self)
        block = _batches.begin("next_batch")
        try:
            return next_of(self)
        except StopIteration:
            training.no_more_batches()
            raise
        finally:
            _batches.end(block)

    iterator.__next__ = skipped_by_dynamo(__next__)
