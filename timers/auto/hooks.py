"""Which hooks there are, and the modules that they go into."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from timers.worker.environment import allow_dumps

from . import KINDS
from ._blocks import Hook, wrapped
from ._bootstrap import WhenImported
from ._groups import install_collectives, install_groups
from ._mpi import install_mpi, install_pickling
from ._ray import install_tasks
from ._steps import install_batches, install_steps

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["install", "install_here"]

_checkpoints = Hook("checkpoint")
_MARK = "__timers_hooks__"
"""In a module that has its hooks."""


def _around(**scopes: str) -> Callable[[ModuleType], None]:
    def put(module: ModuleType) -> None:
        for name, scope in scopes.items():
            if hasattr(module, name):
                setattr(module, name, wrapped(getattr(module, name), _checkpoints, scope))

    return put


_INTO: dict[str, tuple[tuple[str, Callable[[ModuleType], None]], ...]] = {
    "torch.optim.optimizer": (("step", install_steps),),
    "torch.utils.data.dataloader": (("batch", install_batches),),
    "torch.distributed.distributed_c10d": (
        ("group", install_groups),
        ("collective", install_collectives),
    ),
    "torch.serialization": (("checkpoint", _around(save="save", load="load")),),
    "torch.distributed.checkpoint.state_dict_saver": (
        ("checkpoint", _around(save="save", async_save="save")),
    ),
    "torch.distributed.checkpoint.state_dict_loader": (("checkpoint", _around(load="load")),),
    "ray._private.worker": (("task", install_tasks),),
    "mpi4py.MPI": (("mpi", install_mpi),),
    "mpi4py.util.pkl5": (("mpi", install_pickling),),
    "safetensors.torch": (("checkpoint", _around(save_file="save", load_file="load")),),
}


def install(module: ModuleType, chosen: str) -> None:
    """Put the hooks into ``module``, which has just been imported; once, whoever asks for it.

    :param chosen: kinds, with commas between them, or "all".
    """
    if vars(module).get(_MARK) is not None:
        return
    vars(module)[_MARK] = chosen
    allow_dumps(os.environ)
    kinds = KINDS if chosen == "all" else tuple(chosen.split(","))
    for kind, put in _INTO[module.__name__]:
        if kind in kinds:
            try:
                put(module)
            except Exception as error:  # noqa: BLE001  # a torch that is not as expected works all the same
                Hook(kind).fail(error)


def install_here(chosen: str) -> None:
    """Put the hooks into what this process has imported, and into the rest once it does.

    For processes that are started without ``site/`` on their path.

    :param chosen: as for :func:`install`.
    """
    allow_dumps(os.environ)
    missing = {}
    for name in _INTO:
        module = sys.modules.get(name)
        if module is None or getattr(module.__spec__, "_initializing", False):
            missing[name] = lambda module: install(module, chosen)
        else:
            install(module, chosen)
    sys.meta_path.insert(0, WhenImported(missing))
