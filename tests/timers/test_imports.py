"""What ``import timers`` costs a worker, and what it offers and explains."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import pkgutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import timers

if TYPE_CHECKING:
    from types import ModuleType

FOUND = [
    module
    for module in pkgutil.walk_packages(timers.__path__, "timers.")
    # What is written in C, and what compiles it: no module of an installation.
    if module.ispkg or not module.name.startswith("timers.accelerator.")
]
MODULES = ["timers", *(module.name for module in FOUND if not module.ispkg)]
ROOMS = [module.name for module in FOUND if module.ispkg]


def loaded_by(statement: str) -> dict[str, str | None]:
    """The modules that a fresh interpreter loads for ``statement``, with the files they are from.

    Isolated from the environment, and without ``site`` (whose path files import what they like);
    then the search path is given as it is here.
    """
    script = (
        "import json, sys\n"
        "sys.path[:] = json.loads(sys.argv[1])\n"
        "before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps({name: getattr(module, '__file__', None)\n"
        "    for name, module in sys.modules.items() if name not in before}))\n"
    )
    found: dict[str, str | None] = json.loads(
        subprocess.check_output([sys.executable, "-I", "-S", "-c", script, json.dumps(sys.path)])
    )
    return found


def roots(names: dict[str, str | None]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_importing_loads_the_standard_library_and_nothing_else() -> None:
    loaded = loaded_by("import timers")
    assert "timers.worker.scopes" in loaded
    assert roots(loaded) - sys.stdlib_module_names == {"timers"}
    for name, file in loaded.items():
        assert "site-packages" not in (file or ""), name


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_no_module_needs_more_than_the_standard_library(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert module in loaded
    assert roots(loaded) - sys.stdlib_module_names == {"timers"}


def test_what_a_worker_seldom_needs_is_not_loaded_for_it() -> None:
    loaded = loaded_by("import timers")
    assert {"logging", "threading", "select"} <= set(loaded)
    heavy = {
        "asyncio",
        "concurrent",
        "ctypes",
        "email",
        "http",
        "multiprocessing",
        "pickle",
        "shutil",
        "socket",
        "ssl",
        "subprocess",
        "tempfile",
        "unittest",
        "urllib",
        "xml",
    }
    assert roots(loaded) & heavy == set()
    # What only servers and users' tests need.
    ours = {name for name in loaded if name.startswith("timers.")}
    assert not {name for name in ours if name.split(".")[1] in ("server", "stacks", "testing")}
    ends = {name for name in ours if name.startswith("timers.transport.")}
    assert {end.rpartition(".")[2] for end in ends} == {"wire", "fifo_writer", "receipt"}


def test_the_version_is_that_of_what_is_installed() -> None:
    assert timers.__version__ == importlib.metadata.version("expiration-timers")
    assert "__version__" in dir(timers)
    assert "importlib.metadata" not in loaded_by("import timers")
    assert "importlib.metadata" in loaded_by("import timers; timers.__version__")


def test_importing_starts_no_thread_and_says_nothing() -> None:
    script = "import threading, timers; assert threading.active_count() == 1"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


# -- what is public -------------------------------------------------------------------------------


def public() -> list[tuple[str, Any]]:
    found = []
    for name in MODULES:
        module = importlib.import_module(name)
        found += [(f"{name}.{public}", getattr(module, public)) for public in offered(module)]
    return found


def offered(module: ModuleType) -> list[str]:
    """The names that other modules may use: in a private one those without an underscore."""
    if not is_private(module.__name__):
        return list(module.__all__)
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    ]


def is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_for_and_what_is_public(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    if is_private(name):
        assert not hasattr(module, "__all__")
    else:
        assert len(module.__all__) == len(set(module.__all__))
        assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize(
    ("name", "thing"), public(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_everything_public_is_documented(name: str, thing: Any) -> None:
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return
    documentation = inspect.getdoc(thing) or ""
    assert documentation.strip(), name
    if not inspect.isclass(thing):
        return
    for attribute, value in vars(thing).items():
        if attribute.startswith("_"):
            continue
        if inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod):
            assert (inspect.getdoc(getattr(thing, attribute)) or "").strip(), f"{name}.{attribute}"


def test_the_names_of_torch_are_there() -> None:
    torchs = {
        "FileTimerClient",
        "FileTimerRequest",
        "FileTimerServer",
        "LocalTimerClient",
        "LocalTimerServer",
        "RequestQueue",
        "TimerClient",
        "TimerRequest",
        "TimerServer",
        "configure",
        "expires",
    }
    assert torchs <= set(timers.__all__)
    assert timers.__all__ == sorted(timers.__all__, key=lambda name: (not name.isupper(), name))


@pytest.mark.process
def test_the_usage_in_the_documentation_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    _, _, usage = (timers.__doc__ or "").partition("Usage::\n")
    block, _, _ = usage.partition("\nImporting this package")
    script = tmp_path_factory.mktemp("usage") / "usage.py"
    script.write_text(inspect.cleandoc(block) + "\n", "utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout == "-9\n"
