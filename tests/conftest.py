"""What holds for every test: its marker, the signals it starts with, and that it leaves nothing."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from support.leftovers import Leftovers
from support.long_tests import LONG

if TYPE_CHECKING:
    from collections.abc import Generator

EXAMPLES = 100 if LONG else 50 if os.environ.get("CI") else 25
# A shared machine may take its time for any of them.
hypothesis.settings.register_profile("untimed", deadline=None, max_examples=EXAMPLES)
hypothesis.settings.load_profile("untimed")
# Where the same tests have run before, and something else is to be seen: --hypothesis-profile few.
hypothesis.settings.register_profile("few", deadline=None, max_examples=10)
HERE = Path(__file__).resolve().parent
UNIT_FOLDERS = ("timers", "observability")
_BEFORE = pytest.StashKey[Leftovers]()


def pytest_configure() -> None:
    """Start with no signal ignored or held back, whatever this was started by (nohup, a shell's &).

    Programs that are started inherit what is ignored, so tests of signals would wait in vain.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python's own
        if signal.getsignal(number) == signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import nothing of the folders in which nothing is asked for: ``pytest -m unit``."""
    is_other = collection_path.parent == HERE and collection_path.is_dir()
    if config.option.markexpr == "unit" and is_other and collection_path.name not in UNIT_FOLDERS:
        return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is not marked: a unit test is in the folder of a room and neither of the others."""
    for item in items:
        if item.get_closest_marker("process") or item.get_closest_marker("slow"):
            continue
        folder = item.path.relative_to(HERE).parts[0]
        item.add_marker("unit" if folder in UNIT_FOLDERS or folder == item.path.name else "process")


def pytest_collection_finish() -> None:
    """Leave what stays out of later garbage collections, which many tests ask for."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let the plugins that are loaded for their summaries ask who holds on to what."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def there_before(request: pytest.FixtureRequest) -> None:
    """Take down what there is, once the fixtures of wider scope have started what is theirs."""
    is_unit = request.node.get_closest_marker("unit") is not None
    request.node.stash[_BEFORE] = Leftovers(descendants=not is_unit)


@pytest.fixture(autouse=True, scope="session")
def end_what_a_failed_test_started() -> Generator[None]:
    """End a program whose ``with`` block is left by an error: it would be waited for, for ever."""
    leave = subprocess.Popen.__exit__

    def end(process: subprocess.Popen[Any], kind: Any, value: Any, traceback: Any) -> None:
        if kind is not None:
            process.kill()
        leave(process, kind, value, traceback)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__exit__", end)
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, list[object], list[object]]:
    """Fail a test that leaves a thread or a process behind, and name it.

    After everything else, because what pytest has of the test's log keeps objects alive.
    """
    done = yield
    if isinstance(item, pytest.Function):
        item.funcargs.clear()  # they are torn down; what they hold may go
    if _BEFORE in item.stash:
        left = item.stash[_BEFORE].found()
        del item.stash[_BEFORE]  # of thousands: later garbage collections would go through them
        assert not left, f"left behind: {', '.join(left)}"
    return done
