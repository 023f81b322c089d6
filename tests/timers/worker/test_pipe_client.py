"""The worker's end of the pipe: nothing is lost when it is full, its server stopped or gone."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import timers
from support.account import Account
from support.children import FORKS, OTHER_UID, descriptors, in_child, same_path
from support.pipes import drain, fill, plain_reader
from support.waiting import eventually
from timers import FileTimerClient
from timers.errors import NoServerError
from timers.transport.fifo_reader import FifoReader
from timers.transport.wire import Decoder
from timers.worker.slots import messages as slot_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from timers.transport.wire import Message


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "pipe")


@pytest.fixture
def reader(path: str) -> Iterator[FifoReader]:
    reader = FifoReader(path)
    yield reader
    reader.close()


def client_of(path: str, full_timeout: float = 0.0) -> FileTimerClient:
    """A client that waits so many seconds for room, and not at all for a server."""
    client = FileTimerClient(path)
    channel = client._channel
    channel._full_timeout = channel._patience = full_timeout
    channel.writer._connect_timeout = 0.0
    return client


def decoded(data: bytes) -> list[Message]:
    """The messages in what was read, the empty lines of :func:`fill` left out."""
    found, rejections = Decoder().feed(b"".join(data.splitlines(keepends=True)).lstrip(b"\n"))
    assert [rejection for rejection in rejections if rejection.reason != "empty"] == []
    return found


def blocks(client: FileTimerClient, *scopes: str) -> None:
    for scope in scopes:
        with timers.expires(60, scope, client):
            pass


def is_idle(client: FileTimerClient) -> bool:
    """Whether it has nothing to send, and no thread that sends."""
    sender = client._channel._sender
    return not client._channel.unsent and (sender is None or not sender.is_alive())


# -- a full pipe ------------------------------------------------------------------------------


def test_a_full_pipe_loses_nothing_and_keeps_the_order(reader: FifoReader, path: str) -> None:
    assert fill(reader.fileno()) > 0
    client = client_of(path)
    scopes = [f"scope {number}" for number in range(50)]
    blocks(client, *scopes, *scopes)  # neither raises nor drops
    assert len(client._channel.unsent) == 50
    received = drain(reader.fileno())
    eventually(lambda: is_idle(client), "all is sent")
    found = decoded(received + drain(reader.fileno()))
    assert [message.scope_id for message in found] == scopes
    assert {(message.expiration_time, message.missed) for message in found} == {(-1, (2, 2))}
    blocks(client, "after")
    found = decoded(reader.read())
    assert [(message.scope_id, message.missed) for message in found] == [("after", None)] * 2


def test_a_full_pipe_is_waited_for(reader: FifoReader, path: str) -> None:
    fill(reader.fileno())
    client = client_of(path, full_timeout=60.0)
    thread = threading.Thread(target=blocks, args=(client, "x"))
    thread.start()
    account = Account()

    def arrived() -> bool:
        account.take(decoded(drain(reader.fileno())))
        return account.totals == (1, 1)

    eventually(arrived)
    thread.join()
    assert account.open == set()
    assert client._channel._sender is None


def test_the_deadline_of_a_block_that_is_sent_late_is_its_own(
    reader: FifoReader, path: str
) -> None:
    fill(reader.fileno())
    client = client_of(path)
    before = time.monotonic_ns()
    with timers.expires(60, "x", client, warn_after=30):
        after = time.monotonic_ns()
        received = drain(reader.fileno())
        eventually(lambda: is_idle(client))
        [acquire] = decoded(received + drain(reader.fileno()))
    assert acquire.deadline_ns is not None
    assert before <= acquire.deadline_ns - 60_000_000_000 <= after
    assert (acquire.after, acquire.warn_after, acquire.missed) == (60.0, 30.0, (1, 0))


def test_blocks_in_blocks_are_sent_from_the_outside(reader: FifoReader, path: str) -> None:
    fill(reader.fileno())
    client = client_of(path)
    with timers.expires(60, "x", client), timers.expires(50, "x", client):
        blocks(client, "x")
        received = drain(reader.fileno())
        eventually(lambda: is_idle(client))
        found = decoded(received + drain(reader.fileno()))
    assert [(message.after, message.nested) for message in found] == [(60.0, False), (50.0, True)]
    assert [message.missed for message in found] == [(0, 0), (3, 1)]
    assert not any(message.leave for message in found)


STOPPED = """
import select, sys
from timers.transport.fifo_reader import FifoReader
reader = FifoReader(sys.argv[1])
print("ready", flush=True)
found = b""
while b'"end"' not in found:
    select.select([reader], [], [])
    found += reader.read()
sys.stdout.write(found.decode("ascii"))
reader.close()
"""


@pytest.mark.slow
def test_a_stopped_server_loses_no_request_of_several_threads(path: str) -> None:
    # A real server process, stopped in the middle, that says at its end what it has read.
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, path], stdout=subprocess.PIPE, env=same_path()
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        server.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, server.pid, os.WSTOPPED | os.WNOWAIT)
        client = client_of(path)

        left_open = [timers.expires(60, f"open {number}", client) for number in range(4)]

        def send(number: int) -> None:  # more than the largest pipe takes, by all four
            for count in range(2000):
                blocks(client, f"scope {number} {count % 3}")
            left_open[number].__enter__()

        threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client._channel.unsent
        server.send_signal(signal.SIGCONT)
        eventually(lambda: not client._channel.unsent)
        blocks(client, "end")
        account = Account()
        found = decoded(server.stdout.read())  # perhaps without the last one's release
        account.take(message for message in found if message.scope_id != "end")
    assert account.open_scopes == [f"open {number}" for number in range(4)]
    for number in range(4):
        for count, expected in enumerate((667, 667, 666)):
            scope = f"scope {number} {count}"
            assert account.acquires[scope] == account.releases[scope] == expected


def test_the_end_of_a_block_object_is_the_end_of_its_block(reader: FifoReader, path: str) -> None:
    client = client_of(path)
    thread = threading.Thread(target=lambda: timers.expires(60, "x", client).__enter__())
    thread.start()
    thread.join()
    acquire, release = decoded(reader.read())
    assert (acquire.thread, release.thread) == (acquire.thread, acquire.thread)
    assert release.expiration_time == -1


def test_what_was_not_sent_to_a_server_that_died_is_given_up(path: str) -> None:
    reader = FifoReader(path)
    fill(reader.fileno())
    client = client_of(path)
    blocks(client, "old")
    assert len(client._channel.unsent) == 1
    reader.close()
    eventually(lambda: is_idle(client))
    with pytest.raises(NoServerError):
        blocks(client, "x")
    successor = FifoReader(path)
    blocks(client, "new")
    assert [message.scope_id for message in decoded(successor.read())] == ["new", "new"]
    successor.close()


def test_a_block_that_is_open_when_its_server_dies_is_left_at_the_next(path: str) -> None:
    reader = FifoReader(path)
    client = client_of(path)
    with timers.expires(60, "x", client):
        reader.close()
        successor = FifoReader(path)
    [release] = decoded(successor.read())
    assert (release.scope_id, release.expiration_time) == ("x", -1)
    successor.close()


def test_a_full_pipe_of_torch_loses_nothing_either(path: str) -> None:
    os.mkfifo(path)
    torch = plain_reader(path)
    full = os.open(path, os.O_WRONLY)
    filler = fill(full)
    os.close(full)
    client = client_of(path)
    scopes = [f"scope {number}" for number in range(20)]
    blocks(client, *scopes)
    assert len(client._channel.unsent) == 20
    received = b""

    def arrived() -> bool:
        nonlocal received
        received += drain(torch)
        return len(decoded(received[filler:])) == 20

    eventually(arrived)
    assert [message.scope_id for message in decoded(received[filler:])] == scopes
    eventually(lambda: is_idle(client))
    os.close(torch)


def test_servers_of_ours_and_of_torch_in_turn_cost_no_descriptors(path: str) -> None:
    client = client_of(path)
    counts = set()
    for _ in range(3):
        ours = FifoReader(path)
        blocks(client, "ours")
        assert len(decoded(ours.read())) == 2
        ours.close()
        os.mkfifo(path)
        torch = plain_reader(path)
        blocks(client, "torch")
        assert len(decoded(drain(torch))) == 2
        counts.add(len(descriptors()))
        with open(path, "wb", buffering=0) as full:
            fill(full.fileno())
        blocks(client, "late")
        eventually(lambda: b'"late"' in drain(torch))  # noqa: B023  # called in the loop
        eventually(lambda: is_idle(client))
        os.close(torch)
        os.unlink(path)
    assert len(counts) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a pipe away")
def test_what_was_not_sent_is_not_sent_to_another_user(reader: FifoReader, path: str) -> None:
    fill(reader.fileno())
    client = client_of(path)
    blocks(client, "secret")
    assert len(client._channel.unsent) == 1
    os.unlink(path)
    os.mkfifo(path)
    os.chown(path, OTHER_UID, OTHER_UID)
    theirs = plain_reader(path)
    reader.close(remove=False)
    eventually(lambda: is_idle(client))
    assert os.read(theirs, 100) == b""
    os.close(theirs)


def test_scopes_without_end_cost_a_stopped_server_counts_and_no_memory(
    reader: FifoReader, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_messages, "_MOST_UNSENT", 10)
    client = client_of(path)
    client._channel._most_unsent = 10
    known = [timers.expires(60, f"known {number}", client) for number in range(5)]
    for block in known:
        block.__enter__()
    assert len(decoded(reader.read())) == 5
    fill(reader.fileno())
    for block in known:
        block.__exit__(None, None, None)
    most = 0
    for step in range(200):
        blocks(client, f"step {step}")
        most = max(most, len(client._channel.unsent))
    assert most <= 20
    last = timers.expires(60, "open", client)
    last.__enter__()
    received = drain(reader.fileno())
    eventually(lambda: is_idle(client))
    found = decoded(received + drain(reader.fileno()))
    account = Account()
    account.take(found)
    # Never a release that the server waits for, and never a block that is open.
    assert [message.scope_id for message in found[:5]] == [f"known {n}" for n in range(5)]
    assert account.open_scopes == ["open"]
    last.__exit__(None, None, None)
    assert decoded(reader.read())[-1].expiration_time == -1


@pytest.mark.parametrize("enters", [False, True])
def test_nothing_is_written_to_what_has_the_number_of_the_pipe_by_now(
    reader: FifoReader, path: str, tmp_path: Path, *, enters: bool
) -> None:
    client = client_of(path)
    blocks(client, "before")
    block = timers.expires(60, "open", client)
    block.__enter__()
    mine = tmp_path / "mine"
    number = client._channel.writer._fd
    with open(mine, "wb") as file:
        os.dup2(file.fileno(), number)  # as a program does that became a daemon
    if enters:
        blocks(client, "after")
    block.__exit__(None, None, None)
    assert mine.read_bytes() == b""
    os.close(number)
    account = Account()
    account.take(decoded(reader.read()))
    assert account.open_scopes == []
    assert (account.acquires["open"], account.releases["open"]) == (1, 1)


# -- fork, threads and the end --------------------------------------------------------------------


@FORKS
def test_a_fork_leaves_what_was_not_sent_to_the_parent(reader: FifoReader, path: str) -> None:
    filler = fill(reader.fileno())
    client = client_of(path)
    scopes = [f"scope {number}" for number in range(10)]
    blocks(client, *scopes)
    assert len(client._channel.unsent) == 10

    def child() -> bool:
        channel = client._channel
        clean = not channel.unsent and channel._sender is None and channel.writer._fd == -1
        channel._patience = 0.0
        blocks(client, "child")  # the pipe is full for it, too
        return clean and len(channel.unsent) == 1

    assert in_child(child)
    assert len(client._channel.unsent) == 10
    received = drain(reader.fileno())
    eventually(lambda: is_idle(client))
    received += drain(reader.fileno())
    assert [message.scope_id for message in decoded(received[filler:])] == scopes


@FORKS
def test_a_client_survives_fork(reader: FifoReader, path: str) -> None:
    client = FileTimerClient(path)
    client.acquire("parent", 1.0)
    opened = {entry for entry in descriptors() if path in entry}
    assert opened

    def child() -> bool:
        client.acquire("child", 2.0)
        client.release("child")
        return True

    assert in_child(child)
    client.release("parent")
    messages = decoded(reader.read())
    assert [message.scope_id for message in messages] == ["parent", "child", "child", "parent"]
    mine, child_pid, child_too, mine_too = (message.pid for message in messages)
    assert mine == mine_too == os.getpid()
    assert child_pid == child_too != mine
    assert messages[1].start_time is not None
    assert messages[1].thread == child_pid  # of the child's main thread, not of the parent's
    assert {entry for entry in descriptors() if path in entry} == opened


@FORKS
def test_a_forked_child_that_leaves_its_parents_block_ends_nothing(
    reader: FifoReader, path: str
) -> None:
    client = FileTimerClient(path)
    block = timers.expires(60, "parent", client)
    block.__enter__()

    def child() -> bool:
        block.__exit__(None, None, None)
        blocks(client, "child")
        return True

    assert in_child(child)
    account = Account()
    account.take(decoded(reader.read()))
    assert (account.acquires["parent"], account.releases["parent"]) == (1, 0)
    assert (account.acquires["child"], account.releases["child"]) == (1, 1)
    assert account.open_scopes == ["parent"]
    block.__exit__(None, None, None)
    account.take(decoded(reader.read()))
    assert account.open == set()


def test_many_threads_through_one_client(reader: FifoReader, path: str) -> None:
    client = FileTimerClient(path)
    rounds, workers = 300, 8

    def work() -> None:
        for number in range(rounds):
            client.acquire(f"scope {number}", 1.0)
            client.release(f"scope {number}")

    decoder = Decoder()
    messages, rejections = [], []
    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found, refused = decoder.feed(reader.read())
        messages += found
        rejections += refused
    found, refused = decoder.feed(drain(reader.fileno()))
    messages += found
    assert rejections + refused == []
    assert len(messages) == 2 * rounds * workers
    by_thread: dict[int | None, list[tuple[str, bool]]] = {}
    for message in messages:
        by_thread.setdefault(message.thread, []).append(
            (message.scope_id, message.expiration_time < 0)
        )
    expected = [(f"scope {n}", release) for n in range(rounds) for release in (False, True)]
    assert len(by_thread) == workers
    assert all(sent == expected for sent in by_thread.values())


@pytest.mark.parametrize("make", [lambda _: None, timers.configure])
def test_a_forgotten_client_leaves_no_thread_and_no_descriptor(
    reader: FifoReader, path: str, make: Callable[[FileTimerClient], None]
) -> None:
    before = descriptors()
    threads = set(threading.enumerate())
    for _ in range(5):
        client = FileTimerClient(path)
        make(client)
        blocks(client, "x")
    assert descriptors() - before
    timers.configure(None)
    del client
    gc.collect()
    assert descriptors() == before
    eventually(lambda: set(threading.enumerate()) <= threads)
    assert len(decoded(reader.read())) == 10


ENDS = """
import sys, timers
from timers.worker.slots import messages

messages._EXIT_SECONDS = 3600
client = timers.FileTimerClient(sys.argv[1])
client._channel._full_timeout = client._channel._patience = 0.0
for number in range(300):
    with timers.expires(60, f"scope {number}", client):
        pass
assert client._channel.unsent
print("ends", flush=True)
"""


@pytest.fixture
def small(reader: FifoReader) -> FifoReader:
    """A pipe that is soon full."""
    fcntl.fcntl(reader.fileno(), fcntl.F_SETPIPE_SZ, 4 * os.sysconf("SC_PAGE_SIZE"))
    return reader


def test_a_process_that_ends_first_sends_what_it_has_not_sent(small: FifoReader, path: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDS, path], stdout=subprocess.PIPE, env=same_path()
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ends\n"
        received = b""
        while process.poll() is None:
            received += small.read()
        received += small.read()
    assert process.returncode == 0
    account = Account()
    account.take(decoded(received))
    assert account.totals == (300, 300)
    assert account.open == set()


@pytest.mark.slow
def test_a_process_that_ends_does_not_wait_for_a_server_that_is_gone(
    small: FifoReader, path: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDS, path], stdout=subprocess.PIPE, env=same_path()
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ends\n"
        small.close()
        assert process.wait(60) == 0
