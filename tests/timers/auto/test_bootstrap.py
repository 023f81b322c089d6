"""What each interpreter of a job does first: wait for torch, and otherwise be as without us."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from timers.auto import auto_environment
from timers.auto._bootstrap import _MODULES, WhenImported
from timers.auto.hooks import _INTO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

SITE = auto_environment({}, "all", kill=False)["PYTHONPATH"]
MODULE = "module_that_is_waited_for"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.meta_path)
    yield tmp_path
    sys.meta_path[:] = before
    sys.modules.pop(MODULE, None)


def wait_for(name: str, found: list[ModuleType]) -> WhenImported:
    waiting = WhenImported({name: found.append})
    sys.meta_path.insert(0, waiting)
    return waiting


def test_a_module_is_handed_over_once_its_code_has_run(folder: Path) -> None:
    (folder / f"{MODULE}.py").write_text("value = 1\n")
    found: list[Any] = []
    waiting = wait_for(MODULE, found)
    module = importlib.import_module(MODULE)
    assert found == [module]
    assert module.value == 1
    assert waiting not in sys.meta_path
    importlib.reload(module)
    assert found == [module]


def test_its_loader_is_its_own_in_the_end(folder: Path) -> None:
    (folder / f"{MODULE}.py").write_text("loader = __loader__\nspec = __spec__.loader\n")
    wait_for(MODULE, [])
    module = importlib.import_module(MODULE)
    usual = type(pytest.__loader__)
    assert isinstance(module.__loader__, type(module.__spec__.loader if module.__spec__ else usual))
    assert type(module.loader).__name__ == type(module.spec).__name__ == "SourceFileLoader"
    assert module.__loader__.get_source(MODULE) == (folder / f"{MODULE}.py").read_text()  # type: ignore[union-attr]  # it is one from a file


def test_two_that_wait_for_the_same_module_both_get_it(folder: Path) -> None:
    (folder / f"{MODULE}.py").write_text("")
    first: list[ModuleType] = []
    second: list[ModuleType] = []
    wait_for(MODULE, first)
    wait_for(MODULE, second)
    module = importlib.import_module(MODULE)
    assert first == second == [module]
    assert type(module.__loader__).__name__ == "SourceFileLoader"


def test_a_module_that_cannot_be_imported_is_waited_for_still(folder: Path) -> None:
    file = folder / f"{MODULE}.py"
    file.write_text("raise ValueError('not yet')\n")
    found: list[ModuleType] = []
    wait_for(MODULE, found)
    with pytest.raises(ValueError, match="not yet"):
        importlib.import_module(MODULE)
    assert importlib.util.find_spec(MODULE) is not None
    assert found == []
    file.write_text("value = 22\n")
    importlib.invalidate_caches()
    assert [importlib.import_module(MODULE)] == found


@pytest.mark.usefixtures("folder")
def test_what_nobody_finds_is_not_found() -> None:
    wait_for(MODULE, [])
    with pytest.raises(ModuleNotFoundError, match=MODULE):
        importlib.import_module(MODULE)
    assert importlib.util.find_spec("json") is not None


def test_whatever_has_hooks_is_waited_for() -> None:
    assert sorted(_MODULES) == sorted(_INTO)


# -- as the interpreter starts --------------------------------------------------------------------


def start(
    script: str, *folders: Path | str, options: tuple[str, ...] = (), auto: str = "all"
) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TIMERS_")},
        "PYTHONPATH": os.pathsep.join([SITE, *map(str, folders)]),
        "TIMERS_AUTO": auto,
    }
    return subprocess.run(
        [sys.executable, *options, "-c", script],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


SHOW = """
import json, sys
print(json.dumps([
    sorted(set(sys.modules) - {"__future__"}), sys.path,
    [getattr(finder, "__name__", type(finder).__name__) for finder in sys.meta_path],
]))
"""


def test_nothing_is_different_but_one_finder() -> None:
    modules, path, finders = json.loads(start(SHOW).stdout)
    plain_modules, plain_path, plain_finders = json.loads(start(SHOW, options=("-E",)).stdout)
    assert finders == ["WhenImported", *plain_finders]
    assert modules == plain_modules
    assert path == plain_path


@pytest.mark.parametrize(("options", "auto"), [(("-I",), "all"), ((), "off"), ((), "")])
def test_without_it_there_is_no_finder(options: tuple[str, ...], auto: str) -> None:
    assert "WhenImported" not in start(SHOW, options=options, auto=auto).stdout


def test_the_sitecustomize_that_was_there_is_executed(tmp_path: Path) -> None:
    theirs = tmp_path / "sitecustomize.py"
    theirs.write_text("print('theirs')\n")
    done = start("import sitecustomize; print(sitecustomize.__file__)", tmp_path)
    assert (done.stdout, done.stderr) == (f"theirs\n{theirs}\n", "")


def test_an_error_in_it_is_shown_as_without_us(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import nothing_of_this_name\n")
    done = start("import sys; print('sitecustomize' in sys.modules)", tmp_path)
    assert done.stdout == "False\n"
    assert "nothing_of_this_name" in done.stderr
    without = subprocess.run(
        [sys.executable, "-c", ""],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == without.stderr


# -- a torch of one file, which shows who gets what ---------------------------------------------


@pytest.fixture
def torch(tmp_path: Path) -> Path:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    (tmp_path / "torch" / "serialization.py").write_text(
        "def save(obj):\n    return obj\n\n\ndef load(obj):\n    return obj\n"
    )
    return tmp_path


USE = "import torch.serialization as s; print(s.save(3), s.save.__wrapped__ is not None)"


def test_a_module_that_torch_has_not_is_not_missed(torch: Path) -> None:
    done = start(USE, torch)
    assert (done.stdout, done.stderr) == ("3 True\n", "")


def test_an_interpreter_without_the_package_gets_it_and_no_other(torch: Path) -> None:
    script = (
        "import sys; sys.path[:] = [e for e in sys.path if e not in ('', sys.argv[1])]\n"
        "import importlib.util; assert importlib.util.find_spec('timers') is None\n"
        f"{USE}\n"
        "import timers; print(timers.__file__)\n"
        "print([e for e in sys.path if e == sys.argv[1]])"
    )
    environment = {"PYTHONPATH": f"{SITE}{os.pathsep}{torch}", "TIMERS_AUTO": "checkpoint"}
    root = os.path.dirname(os.path.dirname(os.path.dirname(SITE)))
    done = subprocess.run(
        [sys.executable, "-c", script, root],
        env={**os.environ, **environment},
        cwd=torch,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == f"3 True\n{root}/timers/__init__.py\n[]\n"


def test_a_program_with_a_timers_of_its_own_is_left_alone(torch: Path) -> None:
    (torch / "timers.py").write_text("print('their own')\n")
    done = start("import torch.serialization as s; print(hasattr(s.save, '__wrapped__'))", torch)
    assert done.stdout == "False\n"
    assert "a module of the program is called timers" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_torch_that_is_not_as_expected_costs_one_warning(torch: Path) -> None:
    (torch / "torch" / "optim").mkdir()
    (torch / "torch" / "optim" / "__init__.py").write_text("")
    (torch / "torch" / "optim" / "optimizer.py").write_text("value = 1\n")
    done = start(f"import torch.optim.optimizer as o; print(o.value); {USE}", torch)
    assert done.stdout == "1\n3 True\n"
    assert "no more automatic timers of the kind 'step'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
