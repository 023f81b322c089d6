"""The command: finds what is wrong, keeps it in a file, and makes the same inputs from one seed."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from fuzz import command, corpus, wire_lines
from fuzz.command import fuzz_at_random, main
from fuzz.mutation import json_line, mutate
from fuzz.target import Target
from timers.transport.wire import Decoder, Message, Rejection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fuzz.target import Try


class Forgetful(Decoder):
    """Takes a line for another that began like it: what the wire target is there to find."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[bytes, tuple[list[Message], list[Rejection]]] = {}

    def feed(self, data: bytes) -> tuple[list[Message], list[Rejection]]:
        if not data.endswith(b"\n") or data.count(b"\n") != 1:
            return super().feed(data)
        return self._seen.setdefault(data[:40], super().feed(data))


class Careless(Decoder):
    """Raises for a byte that no sender sends."""

    def feed(self, data: bytes) -> tuple[list[Message], list[Rejection]]:
        if b"\x00" in data:
            raise ValueError("a byte that nobody sends")
        return super().feed(data)


@pytest.mark.parametrize("wrong", [Forgetful, Careless])
def test_what_is_wrong_is_found(
    wrong: type[Decoder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wire_lines, "Decoder", wrong)
    assert not fuzz_at_random("wire", runs=2000, seconds=0, seed=1, findings=tmp_path)
    (found,) = tmp_path.iterdir()
    assert found.name.startswith("wire-crash-")
    with pytest.raises((AssertionError, ValueError)):
        main(["wire", "--input", str(found)])
    monkeypatch.undo()
    assert main(["wire", "--input", str(found)]) == 0


def test_one_seed_makes_the_same_inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried: list[bytes] = []

    @contextlib.contextmanager
    def opened() -> Iterator[Try]:
        yield tried.append

    monkeypatch.setattr(command, "load", lambda _name: Target("t", opened, words=("socket",)))
    for seed in (7, 7, 8):
        assert fuzz_at_random("wire", runs=100, seconds=0, seed=seed, findings=tmp_path)
    known = corpus.read("wire")
    assert tried[: len(known)] == known
    assert tried[:100] == tried[100:200]
    assert tried[:100] != tried[200:]
    assert len(set(tried[:100])) > 90


def test_random_runs_of_each_target(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--random", "--runs", "25", "--seed", "1", "--findings", str(tmp_path)]
    assert main(["stacks", "report", "engine", "table", *arguments]) == 0
    said = capsys.readouterr().out
    assert said.count("ok after") == 4
    assert "seed 1" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "no target named nothing; there are wire, pipe"),
        (["--input", "x"], "name the one target"),
        (["--runs", "1", "--minutes", "1"], "not allowed with"),
    ],
)
def test_what_is_asked_in_vain(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_line_of_json_stays_one() -> None:
    data = b'\x03{"a": {"b": [1, 2]}, "c": 3}\nnot json'
    changed = {json_line(random.Random(seed), data) for seed in range(100)}
    assert len(changed) > 20
    for each in changed:
        first, second = each.split(b"\n")
        assert first.startswith(b"\x03{")
        assert second == b"not json"
    assert len(mutate(random.Random(1), b"x" * 100, [], [], 50)) <= 50
