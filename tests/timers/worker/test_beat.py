"""A heartbeat: what reaches the server of each beat, and when it is late."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

import timers
from support.children import FORKS, in_child
from timers.transport.fifo_reader import FifoReader
from timers.transport.wire import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Sent:
    """Reads what was sent of this process: the kind of each request, and its scope."""

    def __init__(self, path: Path) -> None:
        self.reader = FifoReader(str(path))
        self.client = timers.FileTimerClient(self.reader.path)

    def take(self) -> list[tuple[str, str]]:
        messages, rejected = Decoder().feed(self.reader.read())
        assert rejected == []
        return [
            ("release" if message.expiration_time < 0 else "acquire", message.scope_id)
            for message in messages
            if message.pid == os.getpid()
        ]


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[Sent]:
    sent = Sent(tmp_path / "pipe")
    yield sent
    timers.beat("train", after=None)
    timers.beat("other", after=None)
    sent.reader.close()


def test_each_beat_begins_the_countdown_anew(sent: Sent) -> None:
    timers.beat("train", after=60, client=sent.client)
    assert sent.take() == [("acquire", "train")]
    timers.beat("train", after=60, client=sent.client)
    assert sent.take() == [("release", "train"), ("acquire", "train")]
    timers.beat("train", after=None)
    assert sent.take() == [("release", "train")]
    timers.beat("train", after=None)
    assert sent.take() == []


def test_loops_of_different_names_do_not_disturb_each_other(sent: Sent) -> None:
    timers.beat("train", after=60, client=sent.client)
    timers.beat("other", after=5, client=sent.client)
    timers.beat("other", after=None)
    assert sent.take() == [("acquire", "train"), ("acquire", "other"), ("release", "other")]


def test_the_end_of_a_thread_ends_its_beats(sent: Sent) -> None:
    thread = threading.Thread(
        target=timers.beat, args=("train",), kwargs={"after": 60, "client": sent.client}
    )
    thread.start()
    thread.join()
    assert sent.take() == [("acquire", "train"), ("release", "train")]


@FORKS
def test_a_forked_child_does_not_end_the_beats_of_its_parent(sent: Sent) -> None:
    timers.beat("train", after=60, client=sent.client)
    sent.take()

    def ends() -> bool:
        timers.beat("train", after=None)
        return True

    assert in_child(ends)
    assert sent.take() == []


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf")])
def test_a_beat_that_is_wrong_leaves_the_last_one(sent: Sent, after: float) -> None:
    timers.beat("train", after=60, client=sent.client)
    sent.take()
    with pytest.raises(ValueError, match="after="):
        timers.beat("train", after=after, client=sent.client)
    assert sent.take() == []
