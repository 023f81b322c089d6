"""A client that is made by a launcher and handed to the process that it is for, as "spawn" does."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.children import FORKS, in_child
from timers import FileTimerClient, LocalTimerClient, expires
from timers.linux import procfs
from timers.transport.fifo_reader import FifoReader
from timers.transport.wire import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORKER = """
import os, pickle, sys, timers
client = pickle.load(sys.stdin.buffer)
with timers.expires(after=5, scope="x", client=client):
    print(os.getpid(), timers.linux.procfs.start_time(os.getpid()), client.failures)
"""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[FifoReader]:
    reader = FifoReader(str(tmp_path / "pipe"))
    yield reader
    reader.close()


class OwnClient(FileTimerClient):
    """A subclass with a constructor of its own."""

    def __init__(self, reader: FifoReader) -> None:
        super().__init__(reader.path, signal=15, on_error="warn")


def test_it_speaks_for_the_process_that_it_was_handed_to(reader: FifoReader) -> None:
    client = FileTimerClient(reader.path, signal=15)
    with expires(5, "x", client):  # connected, and everything that it caches cached
        assert procfs.start_time(Decoder().feed(reader.read())[0][0].pid) is not None
    reader.read()
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", WORKER],
        input=pickle.dumps(client),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ran.stderr == b""
    pid, start_time, failures = map(int, ran.stdout.split())
    (acquired, released), rejections = Decoder().feed(reader.read())
    assert rejections == []
    assert (acquired.pid, acquired.start_time, acquired.signal) == (pid, start_time, 15)
    assert (released.pid, released.expiration_time) == (pid, -1)
    assert failures == 0


@pytest.mark.slow
def test_a_copy_of_a_subclass_keeps_what_was_chosen(reader: FifoReader) -> None:
    twin = copy.copy(OwnClient(reader))
    with expires(5, "x", twin):
        pass
    messages, _ = Decoder().feed(reader.read())
    assert [message.signal for message in messages] == [15, 0]
    reader.close()
    with expires(5, "x", twin):  # on_error="warn"
        pass
    assert twin.failures > 0


@FORKS
def test_a_queue_client_knows_of_forks_in_its_new_process() -> None:
    class Queue:
        put = print
        forks = 0

        def _after_fork(self) -> None:
            self.forks += 1

    queue = Queue()
    twin = copy.copy(LocalTimerClient(queue))
    assert in_child(lambda: queue.forks == 1 and twin.failures == 0)
    assert queue.forks == 0
