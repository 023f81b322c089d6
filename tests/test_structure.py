"""The floor plan holds: who imports whom, what is private, and what each package's map names."""

from __future__ import annotations

import ast
import graphlib
import re
from functools import cache
from pathlib import Path

import grimp
import pytest

TOP = Path(__file__).resolve().parent.parent
PACKAGES = ("timers", "observability")
ROOMS = sorted(path.parent for package in PACKAGES for path in (TOP / package).rglob("__init__.py"))
ABOUT_A_DOZEN = 13


@cache
def graph() -> grimp.ImportGraph:
    """Every import, those for type checking and those within functions included."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def room(module: str) -> str:
    """The package that a module is in; of a package, itself."""
    is_package = TOP.joinpath(*module.split("."), "__init__.py").exists()
    return module if is_package else module.rpartition(".")[0]


def is_private(module: str) -> bool:
    return module.rpartition(".")[2].startswith("_") and not module.endswith(".__main__")


def test_no_import_goes_in_a_circle() -> None:
    edges = {
        module: graph().find_modules_directly_imported_by(module) for module in graph().modules
    }
    graphlib.TopologicalSorter(edges).prepare()  # raises CycleError, which names them


def test_timers_does_not_know_observability() -> None:
    assert graph().find_shortest_chain("observability", "timers", as_packages=True)
    assert not graph().find_shortest_chain("timers", "observability", as_packages=True)


@pytest.mark.parametrize("server", ["timers.server", "timers.stacks", "timers.events"])
def test_what_a_worker_loads_does_not_know_the_server(server: str) -> None:
    assert graph().find_shortest_chain("timers.worker", "timers.transport.wire", as_packages=True)
    assert not graph().find_shortest_chain("timers.worker", server, as_packages=True)


def test_a_private_module_is_imported_by_its_own_room_only() -> None:
    private = {module for module in graph().modules if is_private(module)}
    assert len(private) > 20
    strangers = {
        (importer, module)
        for module in private
        for importer in graph().find_modules_that_directly_import(module)
        if room(importer) != room(module)
    }
    assert strangers == set()


def test_a_module_that_only_its_own_room_imports_is_private() -> None:
    """Of the rooms: what stands at the top of a package is for its users."""
    inner = {
        module
        for module in graph().modules
        if module.count(".") > 1
        and room(module) != module
        and not is_private(module)
        and {room(user) for user in graph().find_modules_that_directly_import(module)}
        == {room(module)}
    }
    assert inner == set()


@pytest.mark.parametrize("folder", ROOMS, ids=lambda path: str(path.relative_to(TOP)))
def test_the_map_of_a_package_names_each_of_its_files(folder: Path) -> None:
    tree = ast.parse((folder / "__init__.py").read_text("utf-8"))
    named = re.findall(r"(?m)^    ([\w.]+\.\w+|\w+/) {2,}\S", ast.get_docstring(tree) or "")
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in folder.iterdir()
        if path.name not in ("__init__.py", "__pycache__", "py.typed")
        and path.suffix != ".so"  # what an installation has compiled
    }
    assert sorted(named) == sorted(there)


def test_no_room_is_crowded() -> None:
    crowded = {
        str(folder.relative_to(TOP))
        for folder in ROOMS
        if len(list(folder.glob("[!_]*.py")) + list(folder.glob("_[!_]*.py"))) > ABOUT_A_DOZEN
    }
    assert crowded == set()
