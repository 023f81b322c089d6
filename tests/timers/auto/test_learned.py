"""Deadlines that follow from how long a scope took before."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import timers
from timers.auto import _blocks, learned
from timers.auto.learned import LEARNED, learned_seconds
from timers.testing import RecordingClient

if TYPE_CHECKING:
    from pathlib import Path

    from timers.worker.scopes import expires


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(learned, "_file", learned._File())
    monkeypatch.setattr(learned, "_READ_EACH_SECONDS", 0.0)
    path = tmp_path / "learned.json"
    monkeypatch.setenv("TIMERS_LEARNED", str(path))
    return path


def write(path: Path, **longest: float) -> None:
    scopes = {scope: {"uses": 20, "longest_seconds": value} for scope, value in longest.items()}
    path.write_text(json.dumps({"version": 1, "scopes": scopes}))


def test_half_an_hour_where_nothing_is_known(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert learned_seconds("step") == 1800
    write(file, other=1)
    assert learned_seconds("step") == 1800
    assert learned_seconds("other") == 60
    monkeypatch.delenv("TIMERS_LEARNED")
    assert learned_seconds("step") == 1800


@pytest.mark.parametrize(
    ("longest", "after"),
    [(0, 60), (0.5, 60), (6, 60), (7, 70), (100, 1000), (500, 1800), (900, 1800), (2000, 4000)],
)
def test_ten_times_the_longest_within_bounds(file: Path, longest: float, after: float) -> None:
    write(file, step=longest)
    assert learned_seconds("step") == after


def test_it_may_have_a_larger_bound(file: Path) -> None:
    write(file, step=1)
    assert learned_seconds("step", shortest=600) == 600
    assert learned_seconds("other", shortest=3600) == 3600


def test_a_file_that_changes_is_read_again(file: Path) -> None:
    write(file, step=10)
    assert learned_seconds("step") == 100
    write(file, step=20)
    os.utime(file, ns=(1, 1))
    assert learned_seconds("step") == 200
    file.unlink()
    assert learned_seconds("step") == 200


def test_few_uses_are_too_few(file: Path) -> None:
    file.write_text(json.dumps({"scopes": {"step": {"uses": 19, "longest_seconds": 10}}}))
    assert learned_seconds("step") == 1800


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["scopes", "step", "uses", "longest_seconds"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@given(json_values)
def test_any_other_file_is_none(value: Any) -> None:
    found = learned._read(json.dumps(value).encode())
    assert all(0 <= longest < 1e6 for longest in found.values())


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", '{"scopes": {"step": 1}}'])
def test_a_file_that_is_none_is_as_none(file: Path, text: str) -> None:
    file.write_bytes(text.encode("latin-1"))
    assert learned_seconds("step") == 1800


def test_a_block_of_ones_own_takes_it(file: Path) -> None:
    write(file, step=10)
    client = RecordingClient()
    block = timers.expires(timers.LEARNED, "step", client)
    assert after_of(block) == 100
    write(file, step=20)
    os.utime(file, ns=(1, 1))

    @block
    def step() -> None:
        assert len(client.calls) == 1

    step()
    assert len(client.calls) == 2
    assert after_of(block._copy()) == 200
    assert after_of(timers.expires(after=LEARNED, client=client)) == 1800


def test_an_automatic_block_has_ten_minutes_at_least(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(file, save=1, load=100)
    monkeypatch.setattr(_blocks, "_client", lambda _: RecordingClient())
    hook = _blocks.Hook("checkpoint")
    opened = [hook.begin(scope) for scope in ("save", "load", "unknown")]
    assert [after_of(block) for block in opened if block is not None] == [600, 1000, 1800]


def after_of(block: expires) -> float:
    return block._after


def test_it_is_named_after_its_line_by_default(file: Path) -> None:
    write(file)
    block = timers.expires(after=LEARNED)
    assert block._scope.startswith(f"{__file__}#")
