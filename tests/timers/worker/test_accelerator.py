"""The accelerator: the same as the class in Python, but faster; and an installation without it."""

from __future__ import annotations

import gc
import inspect
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import timers
from support.blocks import in_python
from support.board_server import BoardServer
from timers import SocketTimerClient, expires
from timers.worker import scopes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timers.transport.socket_path import Listener

TOP = Path(timers.__file__).resolve().parent.parent
FIELDS = ("_after", "_plain", "_scope", "_client", "_warn_after", "_ticket", "_others")

needs_it = pytest.mark.skipif(
    expires is in_python(), reason="it is turned off, or was not built: no C compiler"
)


def test_it_is_built_where_the_project_checks_itself() -> None:
    if os.environ.get("TIMERS_ACCELERATOR", "").lower() == "off":
        pytest.skip("it is turned off")
    if expires is in_python() and "CI" not in os.environ:
        pytest.skip("it was not built: no C compiler")
    assert expires is not in_python()


def test_it_passes_for_the_class_in_python() -> None:
    assert issubclass(expires, in_python())
    assert scopes.expires is expires
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(expires, name) == getattr(in_python(), name)
    assert inspect.signature(expires) == inspect.signature(in_python())
    with pytest.raises(AttributeError):
        expires(1).something = 1  # type: ignore[attr-defined]  # it has no room for it


# -- making one ------------------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


arguments = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([0, -0.0, 3e9, 3_000_000_001, 10**400, timers.LEARNED]),
    st.text(max_size=3),
    st.just(Text("own")),
    st.binary(max_size=3),
)


def outcome(make: Callable[[], Any]) -> Any:
    try:
        found = make()
    except Exception as error:  # noqa: BLE001  # both are to raise the same
        return type(error), str(error)
    return [(type(getattr(found, name)), repr(getattr(found, name))) for name in FIELDS]


@given(
    given=st.lists(arguments, max_size=4),
    named=st.dictionaries(
        st.sampled_from(["after", "scope", "client", "warn_after", "other"]), arguments
    ),
)
def test_whatever_one_is_made_of_it_is_what_it_is_in_python(
    given: list[Any], named: dict[str, Any]
) -> None:
    makers = [lambda kind=kind: kind(*given, **named) for kind in (expires, in_python())]
    assert outcome(makers[0]) == outcome(makers[1])


def test_the_default_scope_is_the_line_of_the_caller() -> None:
    here = inspect.currentframe()
    assert here is not None
    for _ in range(3):
        made = [expires(1), expires(1)], here.f_lineno
        assert [each._scope for each in made[0]] == [f"{__file__}#{made[1]}"] * 2
    several = (
        [expires(1)],
        [
            expires(1),
        ],
    )
    assert several[0][0]._scope != several[1][0]._scope


@pytest.mark.slow
def test_code_that_comes_and_goes_is_never_taken_for_other_code() -> None:
    for number in range(2000):
        source = "\n" * number + "found = kind(1)._scope"
        names: dict[str, Any] = {"kind": expires}
        exec(compile(source, f"file {number % 7}", "exec"), names)
        assert names["found"] == f"file {number % 7}#{number + 1}"


def test_a_subclass_is_made_as_it_says(board: SocketTimerClient) -> None:
    class Own(expires):
        __slots__ = ("extra",)

        def __init__(self, extra: str) -> None:
            super().__init__(60, "own", board)
            self.extra = extra

    with Own("x") as entered:
        assert entered is None
    assert Own("x").extra == "x"


# -- entering and leaving --------------------------------------------------------------------------


@pytest.fixture
def board(path: str, listener: Listener) -> Iterator[SocketTimerClient]:
    """A client whose blocks are on a board that somebody reads."""
    client = SocketTimerClient(path)
    with expires(600, "first", client):
        pass
    server = BoardServer(listener)
    server.serve()
    yield client
    client._channel.close()
    server.close()


def words(client: SocketTimerClient, scope: str) -> tuple[int, ...]:
    slot: Any = client.slot(scope)
    view = slot.view
    return view[slot.at_state], view[slot.at_deadline] == 2**63 - 1, view[slot.at_short] > 0


class UnusualError(Exception):
    pass


@needs_it
@pytest.mark.parametrize("kind", [expires, in_python()], ids=["in C", "in Python"])
def test_both_leave_the_same_behind(kind: type[expires], board: SocketTimerClient) -> None:
    for _ in range(5):
        with kind(60, "a", board):
            pass
    assert words(board, "a") == (5 << 16, True, True)

    def fail() -> None:
        with kind(60, "a", board):
            assert words(board, "a")[:2] == (6 << 16 | 1, False)
            raise UnusualError

    with pytest.raises(UnusualError):
        fail()
    again = kind(60, "a", board)
    with again, again, kind(60, "a", board):
        assert words(board, "a")[0] == 9 << 16 | 3
    with kind(30, "a", board), kind(30, "b", board):
        pass
    assert words(board, "a")[:2] == (10 << 16, True)
    with pytest.raises(RuntimeError, match="never entered"):
        again.__exit__(None, None, None)
    unfinished = kind(60, "a", board)
    unfinished.__enter__()
    assert words(board, "a")[0] == 11 << 16 | 1
    del unfinished
    assert words(board, "a")[:2] == (11 << 16, True)


@needs_it
def test_threads_that_leave_blocks_of_others(board: SocketTimerClient) -> None:
    blocks = [expires(60, f"scope {number % 3}", board) for number in range(30)]

    def enter_all() -> None:
        for block in blocks:
            block.__enter__()

    thread = threading.Thread(target=enter_all)
    thread.start()
    thread.join()
    for block in blocks:
        block.__exit__(None, None, None)
    assert not any(block._ticket for block in blocks)


@needs_it
def test_a_board_that_is_gone_is_left_to_python(board: SocketTimerClient) -> None:
    for _ in range(5):
        with expires(60, "a", board):
            pass
    slot: Any = board.slot("a")
    kept = slot.view
    slot.view = kept[:]
    slot.view.release()
    with pytest.raises(ValueError, match="released"), expires(60, "a", board):
        pass
    for wrong in (memoryview(bytearray(80)), memoryview(bytearray(8)).cast("q"), [0] * 9):
        slot.view = wrong
        with pytest.raises((IndexError, TypeError, ValueError)), expires(60, "a", board):
            pass
    slot.view = kept
    with expires(60, "a", board):
        assert kept[slot.at_state] & 1


@needs_it
def test_what_a_slot_raises_leaves_the_block_closed(
    board: SocketTimerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UnusualError

    for _ in range(5):
        with expires(60, "a", board):
            pass
    slot: Any = board.slot("a")
    kind = type(slot)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "wake", fail)
        slot.lead = 10**15  # as if the server had to look at once
        with pytest.raises(UnusualError), expires(60, "a", board):
            pytest.fail("it was entered")
        slot.lead = 0
    assert words(board, "a")[:2] == (6 << 16, True)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "closed", fail)
        slot.limit = 0  # none is short
        block = expires(60, "a", board)
        block.__enter__()
        with pytest.raises(UnusualError):
            block.__exit__(None, None, None)
    assert block._ticket is None
    assert words(board, "a")[:2] == (7 << 16, True)


@needs_it
def test_many_blocks_leave_no_object_behind(board: SocketTimerClient) -> None:
    def run(count: int) -> None:
        for _ in range(count):
            with expires(60, "a", board):
                pass
            with expires(60, client=board):
                pass
            expires(60, scope="b")

    run(1000)
    gc.collect()
    objects = [None, 60, "a", board, board.slot("a")]
    before = [sys.getrefcount(each) for each in objects], sys.getallocatedblocks()
    run(20_000)
    gc.collect()
    after = [sys.getrefcount(each) for each in objects], sys.getallocatedblocks()
    assert all(now - was < 500 for was, now in zip(before[0], after[0], strict=True))
    assert after[1] - before[1] < 500


# -- an installation -------------------------------------------------------------------------------


def wheel(tmp_path: Path, **environment: str) -> tuple[str, list[str], str]:
    """Build one; return its name, what is in it, and what was said."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    source = tmp_path / "source"
    for each in ("timers", "observability"):
        shutil.copytree(TOP / each, source / each, ignore=shutil.ignore_patterns("*.so", "*.pyc"))
    for each in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / each, source)
    done = subprocess.run(
        command,
        cwd=source,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (made,) = out.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        return made.name, archive.namelist(), done.stdout + done.stderr


@pytest.mark.slow
@needs_it
def test_an_installation_has_it(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    name, files, said = wheel(tmp_path)
    for module in ("_blocks", "_boards"):
        assert f"timers/accelerator/{module}{sysconfig.get_config_var('EXT_SUFFIX')}" in files
    assert "timers/accelerator/build.py" not in files
    assert not name.endswith("-py3-none-any.whl")
    assert "without the accelerator" not in said


@pytest.mark.slow
@pytest.mark.parametrize("how", ["turned off", "no compiler", "an error"])
def test_an_installation_without_it_is_one(tmp_path: Path, how: str) -> None:
    pytest.importorskip("hatchling")
    environment = {"TIMERS_ACCELERATOR": "off"}
    if how != "turned off":
        # The first word of what links is looked up by PATH.
        folder = tmp_path / "bin"
        folder.mkdir()
        compiler = str(sysconfig.get_config_var("LDSHARED")).split()[0]
        (folder / compiler).write_text("#!/bin/sh\necho 'no such header' >&2\nexit 3\n")
        (folder / compiler).chmod(0o755 if how == "an error" else 0o644)
        environment = {"PATH": str(folder)}
        environment |= {"TIMERS_ACCELERATOR": ""}
    name, files, said = wheel(tmp_path, **environment)
    assert name.endswith("-py3-none-any.whl")
    assert not [each for each in files if each.endswith((".so", "build.py"))]
    assert ("without the accelerator in C" in said) == (how != "turned off")
    assert ("no such header" in said) == (how == "an error")
