"""What the actor keeps is bounded, whoever calls it with what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from observability.ray import _meeting
from observability.ray._meeting import Meeting


def record(task: str, attempt: str = "0", actor: str = "", said: str = "") -> dict[str, str]:
    return {"task_id": task, "attempt": attempt, "actor_id": actor, "said": said or task + attempt}


def test_reaps_are_found_by_task_then_by_actor() -> None:
    async def check() -> None:
        meeting = Meeting()
        for each in (record("a", actor="x"), record("a", "1", "x"), record("b", actor="x")):
            await meeting.record(each)
        await meeting.record(record("a", "1", "x", said="again"))
        assert await meeting.reaped("a", "") == ["a0", "again"]
        assert await meeting.reaped("c", "x") == ["a0", "b0", "again"]
        assert await meeting.reaped("", "") == []
        assert await meeting.reaped("c", "y") == []

    asyncio.run(check())


def test_the_last_thousand_are_kept_each_of_bounded_length() -> None:
    async def check() -> None:
        meeting = Meeting()
        for number in range(1100):
            await meeting.record(record(str(number), said="x" * 10_000))
        assert await meeting.reaped("99", "") == []
        assert len((await meeting.reaped("100", ""))[0]) == 4000

    asyncio.run(check())


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("set", ("k" * 201, ""), ValueError),
        ("set", ("k", "x" * ((4 << 20) + 1)), ValueError),
        ("set", (1, ""), TypeError),
        ("set", ("k", b"bytes"), TypeError),
        ("get", (["k"] * 1025,), ValueError),
        ("wait", (["k"] * 1025, 1), ValueError),
        ("add", ("text", 1), ValueError),
    ],
)
def test_what_is_too_much_is_refused(
    method: str, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    async def check() -> None:
        meeting = Meeting()
        await meeting.set("text", "no number")
        with pytest.raises(error):
            await getattr(meeting, method)(*arguments)

    asyncio.run(check())


def test_old_reports_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_meeting, "_MOST_CHARACTERS", 100)

    async def check() -> None:
        meeting = Meeting()
        await meeting.set("hosts", "2")
        for number in range(20):
            await meeting.set(f"report/{number}", "x" * 30)
            assert sum(map(len, meeting._texts.values())) == meeting._characters <= 100
        assert await meeting.get(["hosts", "report/0", "report/19"]) == ["2", None, "x" * 30]

    asyncio.run(check())


def test_a_wait_that_is_over_is_forgotten() -> None:
    async def check() -> None:
        meeting = Meeting()
        assert await meeting.wait(["a"], 0.001) is False
        waiting = asyncio.create_task(meeting.wait(["a"], 60))
        await asyncio.sleep(0)
        await meeting.set("a", "")
        assert await waiting is True
        assert meeting._waiting == []

    asyncio.run(check())
