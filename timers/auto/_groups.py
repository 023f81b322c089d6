"""Process groups of torch: setting up, tearing down, and waiting for collectives.

What a collective is about, torch's Flight Recorder says to whoever asks it from outside
(:mod:`._worker_server`). Nothing that torch's compiler traces is touched: not ``all_reduce`` and
the like, which it replaces by functions of its own when it finds the originals, but ``Work.wait``,
which they end in when they are not compiled.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from timers.linux.ranks import announce

from ._blocks import Hook, skipped_by_dynamo, wrapped
from ._steps import end_step
from ._worker_server import start_worker_server

if TYPE_CHECKING:
    from types import ModuleType

_groups = Hook("group")
_collectives = Hook("collective")


def install_groups(module: ModuleType) -> None:
    """Time the making and the end of groups.

    :param module: ``torch.distributed.distributed_c10d``.
    """
    for name in ("init_process_group", "new_group"):
        setattr(module, name, wrapped(getattr(module, name), _groups, name))
    destroy = wrapped(module.destroy_process_group, _groups, "destroy_process_group")

    @functools.wraps(destroy)
    def destroy_process_group(*arguments: Any, **keywords: Any) -> Any:
        end_step()
        return destroy(*arguments, **keywords)

    module.destroy_process_group = skipped_by_dynamo(destroy_process_group)  # type: ignore[attr-defined]  # any module


def install_collectives(module: ModuleType) -> None:
    """Time the waits for collectives, and have the recorder answer.

    :param module: ``torch.distributed.distributed_c10d``.
    """
    work = sys.modules["torch._C._distributed_c10d"].Work
    wait_of = work.wait
    file = module.__file__

    # By this name and with this first argument: pybind11 takes it for no override then.
    @functools.wraps(wait_of)
    def wait(self: Any, *arguments: Any, **keywords: Any) -> Any:
        caller = sys._getframe(1).f_code  # noqa: SLF001  # what inspect.currentframe() is made of
        block = _collectives.begin(caller.co_name if caller.co_filename == file else "wait")
        try:
            return wait_of(self, *arguments, **keywords)
        finally:
            _collectives.end(block)

    work.wait = skipped_by_dynamo(wait)
    initialise = module.init_process_group

    @functools.wraps(initialise)
    def init_process_group(*arguments: Any, **keywords: Any) -> Any:
        start_worker_server()
        _announce(keywords.get("rank"))
        done = initialise(*arguments, **keywords)
        with contextlib.suppress(Exception):
            _announce(module.get_rank())
        return done

    module.init_process_group = skipped_by_dynamo(init_process_group)  # type: ignore[attr-defined]  # any module


def _announce(rank: object) -> None:
    if isinstance(rank, int) and rank >= 0:
        announce({**os.environ, "RANK": str(rank)})
    else:
        announce(os.environ)
