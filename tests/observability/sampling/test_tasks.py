"""The line at which an asyncio task is suspended, which is on no thread's stack."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.sampling._tasks import _frames, with_task
from support.command import Cli, json_lines
from timers.stacks.take import Frame, StackDump, ThreadStack

if TYPE_CHECKING:
    from pathlib import Path

JOB = """
import asyncio, os, socket, timers

async def fetch(reader):
    return await reader.read(1)  # line 5

class Loader:
    async def load(self, reader):
        return [await fetch(reader)]

async def idle():
    async with timers.expires(after=60, scope="idle"):
        await asyncio.sleep(1000)

async def finished():
    async with timers.expires(after=60, scope="step"):
        await asyncio.sleep(0)
    await asyncio.sleep(1000)

async def step():
    ours, _theirs = socket.socketpair()
    reader, _ = await asyncio.open_connection(sock=ours)
    async with timers.expires(after=1, scope="step"):
        await asyncio.create_task(Loader().load(reader))

async def main():
    await asyncio.gather(idle(), finished(), step())

timers.configure_from_env()
asyncio.run(main())
"""


@pytest.mark.process
def test_the_line_that_a_task_awaits_at_is_told(tmp_path: Path) -> None:
    job, events = tmp_path / "job.py", tmp_path / "events.jsonl"
    job.write_text(JOB.lstrip("\n"))
    ran = Cli(tmp_path / "cli").run(
        "run", "--http", "off", "--events", events, "--dump-timeout", "60s", "--",
        sys.executable, job,
    )  # fmt: skip
    assert ran.returncode == 137, ran.stderr
    logged = {line["event"]: line for line in json_lines(events.read_text().splitlines())}
    kill = logged["kill worker process"]
    assert kill["frame"] == f"{job}:4 fetch"
    assert kill["scope_id"] == "step"
    assert f"at {job}:4 fetch" in kill["sentence"]
    frames = logged["stack dumped"]["stack"][0]["frames"]
    own = [frame.rpartition("/")[2] for frame in frames if str(job) in frame]
    assert own[:3] == ["job.py:4 fetch", "job.py:8 Loader.load", "job.py:23 step"]


def test_a_thread_without_a_loop_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Any:
        raise AssertionError("asked")

    monkeypatch.setattr("observability.sampling._tasks._ask", refuse)
    select = Frame("select", "/usr/lib/python3.11/selectors.py", 468)
    loop = Frame("BaseEventLoop._run_once", "/usr/lib/python3.11/asyncio/base_events.py", 1884)
    for frames in ((Frame("work", "/job.py", 1), loop), (select,)):
        dump = StackDump(pid=1, method="py-spy", threads=(ThreadStack(frames=frames, thread=1),))
        assert with_task(dump, 1, "step", time.monotonic() + 1) is dump
    waiting = StackDump(
        pid=1, method="py-spy", threads=(ThreadStack(frames=(select, loop), thread=1),)
    )
    with pytest.raises(AssertionError, match="asked"):
        with_task(waiting, 1, "step", time.monotonic() + 1)


JUNK = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda each: (
        st.lists(each, max_size=4)
        | st.dictionaries(st.sampled_from(["thread", "scopes", "frames"]), each)
    ),
    max_leaves=12,
)


@given(JUNK)
def test_what_a_worker_says_may_be_anything(task: object) -> None:
    frames = _frames(json.loads(json.dumps(task)), 1, None)
    assert all(isinstance(frame, Frame) for frame in frames)


def test_the_task_of_the_timer_is_taken() -> None:
    task = {"thread": 7, "scopes": ["a", "b"], "frames": [["f", "/x.py", 3], ["g", "/x.py", True]]}
    assert _frames(task, 7, "b") == (Frame("f", "/x.py", 3),)
    assert _frames(task, 7, None) == (Frame("f", "/x.py", 3),)
    assert _frames(task, 8, "b") == ()
    assert _frames(task, 7, "c") == ()
