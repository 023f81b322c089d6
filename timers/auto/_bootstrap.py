"""Wait for modules to be imported, at next to no cost for a process that never imports them.

Runs before the package ``timers`` is loaded, and on its own: ``site/sitecustomize.py`` executes
this file, so that it must not import anything that an interpreter does not load by itself.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # that of typing would load typing
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_MODULES = (
    "torch.serialization",
    "torch.optim.optimizer",
    "torch.utils.data.dataloader",
    "torch.distributed.distributed_c10d",
    "torch.distributed.checkpoint.state_dict_loader",
    "torch.distributed.checkpoint.state_dict_saver",
    "safetensors.torch",
    "ray._private.worker",
    "mpi4py.MPI",
    "mpi4py.util.pkl5",
)
"""Whose import :mod:`timers.auto.hooks` wants to know of."""


class WhenImported:
    """A finder of modules that finds none: calls a function once a module's code has been run.

    :param wanted: by name of the module. A function is given the module, and must not raise.
    """

    def __init__(self, wanted: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self.wanted = dict(wanted)
        self._looking: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let the other finders find the module, and run ours after its code."""
        if name not in self.wanted or name in self._looking:  # another finder asks all, as we do
            return None
        self._looking.add(name)
        try:
            spec = self._find(name, path, target)
        finally:
            self._looking.discard(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]  # all of one, by __getattr__
        return spec

    def _find(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                return spec
        return None

    def run(self, module: ModuleType) -> None:
        """Call the function for ``module``; once, whoever imports it again."""
        function = self.wanted.pop(module.__name__, None)
        if not self.wanted and self in sys.meta_path:
            sys.meta_path.remove(self)
        if function is not None:
            function(module)


class _Loader:
    """A module's own loader, with one more step after it."""

    def __init__(self, loader: Any, waiting: WhenImported) -> None:
        self._loader = loader
        self._waiting = waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module as its own loader does, which is the one it has from then on."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._waiting.run(module)


def wait_for_modules(chosen: str, root: str) -> None:
    """Put the hooks into torch, Ray and mpi4py as soon as the process imports them.

    :param chosen: which, as ``TIMERS_AUTO`` says.
    :param root: the folder with the package ``timers``, for an interpreter that has none.
    """

    def imported(module: ModuleType) -> None:
        try:
            _load_hooks(root).install(module, chosen)
        except Exception as error:  # noqa: BLE001  # it is imported as without us
            waiting.wanted.clear()
            sys.stderr.write(f"timers: no automatic timers in process {os.getpid()}: {error}\n")

    waiting = WhenImported(dict.fromkeys(_MODULES, imported))
    sys.meta_path.insert(0, waiting)


def _load_hooks(root: str) -> Any:
    """Import :mod:`timers.auto.hooks`: of the interpreter's own ``timers``, else of ``root``.

    :raises ImportError: ``timers`` is something else to this program.
    """
    from importlib import import_module  # noqa: PLC0415  # who is waited for has loaded both
    from importlib.machinery import PathFinder  # noqa: PLC0415  # as above

    if "timers" not in sys.modules:
        spec = PathFinder.find_spec("timers")
        if spec is None:
            sys.path.append(root)
            try:
                return import_module("timers.auto.hooks")
            finally:
                sys.path.remove(root)
        folder = os.path.dirname(spec.origin or "")
        if not os.path.exists(os.path.join(folder, "auto", "hooks.py")):
            raise ImportError(f"a module of the program is called timers: {spec.origin}")
    return import_module("timers.auto.hooks")
