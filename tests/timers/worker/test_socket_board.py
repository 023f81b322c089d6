"""The worker's end of the socket with its board, and a server that does as a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import timers
from support.board_server import BoardServer
from support.children import FORKS, descriptors, in_child, same_path
from support.each_line import at_each_line
from support.waiting import eventually
from timers import SocketTimerClient
from timers.errors import NoServerError, RequestTooLargeError
from timers.transport import board
from timers.transport.board import NONE, Layout
from timers.transport.socket_path import listen
from timers.worker.slots.slot import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from timers.transport.socket_path import Listener

NS = 1_000_000_000


@pytest.fixture
def serve() -> Iterator[Callable[[Listener], BoardServer]]:
    """Takes the next connection to a listener."""
    with contextlib.ExitStack() as ends:

        def take(listener: Listener) -> BoardServer:
            server = BoardServer(listener)
            ends.callback(server.close)
            return server

        yield take


def blocks(client: SocketTimerClient, scope: str, count: int = 1, after: float = 60) -> None:
    for _ in range(count):
        with timers.expires(after, scope, client):
            pass


# -- blocks ---------------------------------------------------------------------------------------


def test_a_block_is_on_the_board_and_no_message(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path, signal=15)
    before = time.monotonic_ns()
    with timers.expires(60, "x", client, warn_after=30):
        after = time.monotonic_ns()
        server = serve(listener)
        [slot] = server.open
        assert (slot.scope, slot.thread, slot.signal) == ("x", threading.get_native_id(), 15)
        assert before <= slot.deadline_ns - 60 * NS == slot.started_ns <= after
        assert (slot.after_ns, slot.warn_ns) == (60 * NS, 30 * NS)
    server.serve(time.monotonic_ns() + NS)
    blocks(client, "x", 1000)
    assert server.open == []
    assert server.counts == {"x": (1001, 1001)}
    assert (server.messages, server.wakes) == ([], 0)


def test_new_scopes_may_come_while_a_new_server_is_attended_to(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    blocks(client, "x", 4)
    server = serve(listener)
    expected = {"x": (4, 4)}
    for turn in range(60):
        server.serve(time.monotonic_ns() + NS)
        seen = itertools.count()

        def enter_another(turn: int = turn, seen: Iterator[int] = seen) -> None:
            if next(seen) == turn:
                blocks(client, f"other {turn}")

        with at_each_line(enter_another):
            blocks(client, "x", after=30 + turn)  # not as before: it asks what the server wants
        assert next(seen) > turn
        expected |= {"x": (5 + turn, 5 + turn), f"other {turn}": (1, 1)}
    assert server.counts == expected


def test_all_kinds_of_blocks_are_counted(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)

    @timers.expires(60, "decorated", client)
    def work(depth: int) -> None:
        if depth:
            work(depth - 1)

    async def task() -> None:
        async with timers.expires(60, "task", client):
            await asyncio.sleep(0)

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(5)))

    work(3)
    asyncio.run(tasks())
    for _ in range(3):
        client.acquire("beat", time.time() + 60)
    client.release("beat")
    client.release("beat")
    with contextlib.suppress(KeyError), timers.expires(60, "raises", client):
        raise KeyError
    server = serve(listener)
    assert server.counts == {
        "decorated": (4, 4),
        "task": (5, 5),
        "beat": (3, 2),
        "raises": (1, 1),
    }
    assert server.open == []


def test_leaving_an_inner_block_restarts_the_outer_one(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    with timers.expires(100, "x", client):
        server = serve(listener)
        [outer] = server.open
        with timers.expires(1, "x", client, warn_after=0.5):
            [inner] = server.open
        left = time.monotonic_ns()
        [again] = server.open
    assert (outer.after_ns, inner.after_ns, again.after_ns) == (100 * NS, NS, 100 * NS)
    assert (outer.warn_ns, inner.warn_ns, again.warn_ns) == (0, NS // 2, 0)
    assert inner.deadline_ns < outer.deadline_ns < again.deadline_ns <= left + 100 * NS
    assert outer.started_ns == again.started_ns < inner.started_ns
    assert len({outer.state, inner.state, again.state}) == 3


def test_tasks_that_take_turns_keep_the_deadline_of_the_one_that_goes_on(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    first, second = timers.expires(5, "x", client), timers.expires(7, "x", client)
    first.__enter__()
    second.__enter__()
    server = serve(listener)
    [before] = server.open
    first.__exit__(None, None, None)
    [after] = server.open
    assert (before.deadline_ns, before.after_ns) == (after.deadline_ns, 7 * NS)
    second.__exit__(None, None, None)
    assert server.open == []


def test_heartbeats_move_the_deadline_and_not_the_beginning(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    client.acquire("x", time.time() + 10)
    server = serve(listener)
    [first] = server.open
    client.acquire("x", time.time() + 100)
    [second] = server.open
    assert second.deadline_ns - first.deadline_ns > 80 * NS
    assert second.started_ns == first.started_ns
    assert server.counts == {"x": (2, 0)}
    client.release("x")
    assert server.counts == {"x": (2, 1)}


def test_a_block_in_an_acquire_of_ones_own_is_the_same_timer(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    client.acquire("x", time.time() + 10)
    with timers.expires(60, "x", client):
        server = serve(listener)
        assert [slot.after_ns for slot in server.open] == [60 * NS]
    assert server.open == []
    assert server.counts == {"x": (2, 1)}


@pytest.mark.parametrize("after", [0, 1e-9, 0.5, 3e9, 1e12])
def test_any_duration(
    listener: Listener, serve: Callable[[Listener], BoardServer], after: float
) -> None:
    client = SocketTimerClient(listener.path)
    for _ in range(5):
        with timers.expires(after, "x", client):
            now = time.monotonic_ns()
    with timers.expires(after, "x", client):
        [slot] = serve(listener).open
    assert slot.after_ns == int(min(after, 3e9) * NS)
    assert 0 < slot.deadline_ns < NONE
    assert slot.deadline_ns - slot.after_ns >= now - NS


def test_as_many_blocks_in_blocks_as_one_may_have(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_DEPTH + 5):
            stack.enter_context(timers.expires(60, "x", client))
        server = serve(listener)
        [slot] = server.open
        assert slot.state & board.DEPTH == MAX_DEPTH
        assert server.counts == {"x": (MAX_DEPTH + 5, 0)}
    assert server.open == []
    assert server.counts == {"x": (MAX_DEPTH + 5, MAX_DEPTH + 5)}


def test_how_long_blocks_take_is_on_the_board(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    blocks(client, "x", 10)
    with timers.expires(60, "x", client):
        time.sleep(0.01)  # longer than the shortest bucket
    own = serve(listener).board
    counts = own.row(own.layout.counts, 0, board.COUNT_WORDS)
    durations = counts[board.DURATIONS : board.DURATIONS + len(board.DURATION_BUCKETS) + 1]
    assert sum(durations[2:]) >= 1  # those in the first bucket are all that are in no other
    assert counts[board.UNTIMED] == counts[board.UNRATED] == 0
    assert counts[board.DURATION_NS] + counts[board.SHORT_NS] >= 0.01 * NS
    assert counts[board.LONGEST_STEADY] >= 0.01 * NS
    warm_ups = counts[board.WARM_UPS : board.WARM_UPS + len(board.DURATION_BUCKETS) + 1]
    assert sum(warm_ups) == board.WARM_UP_USES


# -- threads, forks, and one object ----------------------------------------------------------------


def test_threads_have_slots_of_their_own_which_the_next_ones_go_on_with(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    server = None
    for _ in range(5):
        with timers.expires(60, "x", client):
            thread = threading.Thread(target=blocks, args=(client, "x", 3))
            thread.start()
            thread.join()
            gc.collect()
        server = server or serve(listener)
    assert server is not None
    assert server.counts == {"x": (20, 20)}
    assert server.board.used == 2


def test_threads_that_begin_at_once_have_one_board(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        blocks(client, f"scope {number}")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    server = serve(listener)
    assert server.counts == {f"scope {number}": (1, 1) for number in range(8)}
    assert {own.file for own in server.boards} == {server.board.file}


def test_a_slot_in_which_a_block_is_open_stays_when_its_thread_ends(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    block = timers.expires(60, "x", client)
    thread = threading.Thread(target=block.__enter__)
    thread.start()
    thread.join()
    blocks(client, "x")
    server = serve(listener)
    [slot] = server.open
    assert slot.thread != threading.get_native_id()
    block.__exit__(None, None, None)
    assert server.open == []
    assert server.counts == {"x": (2, 2)}


def test_the_end_of_a_block_object_is_the_end_of_its_block(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    block = timers.expires(60, "x", client)
    block.__enter__()
    server = serve(listener)
    assert len(server.open) == 1
    del block
    assert server.open == []
    assert server.counts == {"x": (1, 1)}


def test_many_threads_through_one_object(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    block = timers.expires(60, "x", client)
    rounds, workers = 300, 8

    def work() -> None:
        for _ in range(rounds):
            with block, block:
                pass

    threads = [threading.Thread(target=work) for _ in range(workers)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    server = serve(listener)
    assert server.counts == {"x": (2 * rounds * workers, 2 * rounds * workers)}
    assert server.open == []
    with pytest.raises(RuntimeError, match="left but never entered"):
        block.__exit__(None, None, None)


@FORKS
def test_a_forked_child_has_a_board_of_its_own(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    block = timers.expires(60, "parent", client)
    block.__enter__()
    parent = serve(listener)
    [before] = parent.open

    def child() -> bool:
        block.__exit__(None, None, None)  # does nothing: it is the parent's
        blocks(client, "parent", 2)
        blocks(client, "child", 3)
        return True

    assert in_child(child)
    own = serve(listener)
    assert own.counts == {"parent": (2, 2), "child": (3, 3)}
    assert parent.open == [before]
    assert parent.counts == {"parent": (1, 0)}
    block.__exit__(None, None, None)
    assert parent.counts == {"parent": (1, 1)}


# -- the server -----------------------------------------------------------------------------------


def test_a_server_is_woken_once_for_what_is_due_before_it_would_look(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    blocks(client, "x")
    server = serve(listener)
    own = server.serve(time.monotonic_ns() + 30 * NS)
    blocks(client, "x", 10)  # is due later
    server.read()
    assert server.wakes == 0
    blocks(client, "x", 10, after=5)
    blocks(client, "y", 10, after=5)
    server.read()
    assert server.wakes == 1
    blocks(client, "z", after=2)  # earlier still
    server.read()
    assert server.wakes == 2
    own.words[board.LOOKED] += 1  # and it will look next when it would have before
    blocks(client, "x", 10, after=5)
    server.read()
    assert server.wakes == 3


def test_a_server_is_woken_for_the_outer_block_that_an_inner_one_made_wait(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    with timers.expires(5, "x", client):
        server = serve(listener)
        with timers.expires(600, "x", client):
            server.serve(time.monotonic_ns() + 500 * NS)
        server.read()
        assert server.wakes == 1


def test_a_server_that_samples_looks_ahead_of_the_deadline(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    blocks(client, "x", after=10)
    server = serve(listener)
    own = server.serve(time.monotonic_ns() + 7 * NS, sample=(2 * NS, 500))
    with timers.expires(10, "x", client):
        assert own.words[own.layout.leads] == 5 * NS
    with timers.expires(10, "x", client, warn_after=1):
        assert own.words[own.layout.leads] == 9 * NS
    with timers.expires(10, "x", client):
        assert own.words[own.layout.leads] == 5 * NS
    with timers.expires(1.5, "x", client):  # too short to be sampled
        assert own.words[own.layout.leads] == 0
    server.read()
    assert server.wakes > 0


def test_a_server_that_wants_to_hear_of_each_block_is_sent_it_as_well(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    blocks(client, "x")
    server = serve(listener)
    server.serve(NONE, wants=True)
    server.messages.clear()
    blocks(client, "x")
    with contextlib.suppress(KeyError), timers.expires(60, "x", client, warn_after=5):
        blocks(client, "x", after=6)
        raise KeyError
    client.acquire("y", time.time() + 60)
    client.release("y")
    server.wait(lambda: len(server.messages) == 8)
    messages = server.messages
    assert all(message.board for message in messages)
    assert [message.after for message in messages[:6]] == [60, 60, 60, 6, 6, 60]
    assert [message.took is None for message in messages] == [
        True, False, True, True, False, False, True, False,
    ]  # fmt: skip
    assert [message.error for message in messages[:6]] == [None] * 5 + ["KeyError"]
    assert [message.warn_after for message in messages[:6]] == [None, None, 5, None, None, 5]
    assert {message.scope_id for message in messages[6:]} == {"y"}
    assert server.counts == {"x": (4, 4), "y": (1, 1)}  # here, and nowhere else
    server.serve(time.monotonic_ns() + 10 * NS)  # the next one does not
    blocks(client, "x", 5)
    server.read()
    assert len(server.messages) <= 9  # the first one may have been on its way


def test_what_a_server_wanted_to_hear_and_did_not_read_is_counted_as_lost(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    blocks(client, "x")
    server = serve(listener)
    own = server.serve(NONE, wants=True)
    count = 3_000  # more than a socket holds
    blocks(client, "x", count)
    lost = own.words[board.LOST] + own.words[board.LOST_RELEASES]
    assert own.words[board.LOST] > 0
    assert own.words[board.LOST_RELEASES] > 0
    server.read()
    assert len(server.messages) == 2 * count - lost
    assert server.counts == {"x": (count + 1, count + 1)}


def test_a_server_that_reads_nothing_costs_nothing_and_misses_nothing(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    blocks(client, "first")
    server = serve(listener)
    server.serve(time.monotonic_ns() + 3600 * NS)
    for number in range(10_000):
        blocks(client, f"scope {number % 7}", after=5)
    assert not client._channel.unsent
    assert sum(releases for _, releases in server.counts.values()) == 10_001


def test_the_next_server_is_handed_the_same_board(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    block = timers.expires(60, "open", client)
    block.__enter__()
    blocks(client, "over", 3)
    first = serve(listener)
    [open_block], file = first.open, first.board.file
    first.close()
    second = serve(listener)  # by itself: nobody calls
    assert second.open == [open_block]
    assert second.board.file == file
    assert second.counts == {"open": (1, 0), "over": (3, 3)}
    block.__exit__(None, None, None)
    assert second.open == []


def test_blocks_of_the_time_without_a_server_are_on_the_board_of_the_next(
    path: str, serve: Callable[[Listener], BoardServer]
) -> None:
    listener = listen(path)
    client = SocketTimerClient(path)
    blocks(client, "x")
    first = serve(listener)
    first.board  # noqa: B018  # waits for it
    listener.connections.close()
    first.close()
    blocks(client, "x", 100)
    with timers.expires(60, "y", client):  # a new one, too
        again = listen(path)
        second = serve(again)
        assert [slot.scope for slot in second.open] == ["y"]
        assert second.counts == {"x": (101, 101), "y": (1, 0)}
    again.connections.close()


def test_without_a_server_a_block_is_not_entered(
    path: str, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(path, connect_timeout=0.01)
    for _ in range(2):
        with pytest.raises(NoServerError, match="no timer server listens at"):
            blocks(client, "x")
    listener = listen(path)
    blocks(client, "y")
    server = serve(listener)
    assert server.counts == {"y": (1, 1)}  # nothing of "x"
    assert client.failures == 0
    listener.connections.close()


def test_a_client_that_fails_open_shows_the_first_server_all_of_it(
    path: str, serve: Callable[[Listener], BoardServer], caplog: pytest.LogCaptureFixture
) -> None:
    client = SocketTimerClient(path, on_error="warn", connect_timeout=0)
    block = timers.expires(60, "x", client)
    with caplog.at_level(logging.WARNING):
        block.__enter__()
        blocks(client, "y", 3)
    assert client.failures == 7
    assert len(caplog.records) == 1
    assert "goes on without timers" in caplog.records[0].getMessage()
    listener = listen(path)
    server = serve(listener)  # nobody calls
    assert [slot.scope for slot in server.open] == ["x"]
    assert server.counts == {"x": (1, 0), "y": (3, 3)}
    blocks(client, "y")
    assert client.failures == 7
    block.__exit__(None, None, None)
    listener.connections.close()


def test_a_server_that_takes_no_board_is_not_asked_all_the_time(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    blocks(client, "x")
    for _ in range(3):
        serve(listener).close()
    eventually(lambda: client._channel._retry_seconds > 0.02)
    assert serve(listener).counts == {"x": (1, 1)}


# -- where there is no room -----------------------------------------------------------------------


def test_a_scope_that_is_too_long_is_refused(listener: Listener) -> None:
    client = SocketTimerClient(listener.path)
    for _ in range(2):
        with pytest.raises(RequestTooLargeError):
            blocks(client, "x" * 4000)
    blocks(client, "x" * 3700)


def test_scopes_beyond_the_slots_are_sent_as_messages(
    listener: Listener, serve: Callable[[Listener], BoardServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layout.__init__, "__defaults__", (3, board.NAME_BYTES))
    client = SocketTimerClient(listener.path)
    block = timers.expires(60, "open", client)
    block.__enter__()
    for number in range(5):
        blocks(client, f"scope {number}", 2)
    server = serve(listener)
    assert server.counts == {"open": (1, 0), "scope 0": (2, 2), "scope 1": (2, 2)}
    server.wait(lambda: len(server.messages) == 12)
    assert {message.scope_id for message in server.messages} == {"scope 2", "scope 3", "scope 4"}
    assert not any(message.board or message.missed for message in server.messages)
    block.__exit__(None, None, None)


def test_scopes_beyond_the_room_for_names_are_sent_as_messages(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    client = SocketTimerClient(listener.path)
    long = "x" * 3700
    fit = board.NAME_BYTES // len(f"{long}000")
    for number in range(fit + 2):
        blocks(client, f"{long}{number:03}")
    server = serve(listener)
    assert len(server.counts) == fit
    server.wait(lambda: len(server.messages) == 4)


def test_without_memory_for_a_board_blocks_are_sent_as_messages(
    listener: Listener,
    serve: Callable[[Listener], BoardServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuses(name: str, flags: int) -> int:
        raise OSError(38, f"no {name} {flags}")

    monkeypatch.setattr(os, "memfd_create", refuses)
    client = SocketTimerClient(listener.path)
    with caplog.at_level(logging.INFO):
        blocks(client, "x")
        blocks(client, "y")
    server = serve(listener)
    server.wait(lambda: len(server.messages) == 4)
    assert server.boards == []
    assert len([r for r in caplog.records if "there can be no board" in r.getMessage()]) == 1


def test_the_environment_turns_boards_off(
    listener: Listener,
    serve: Callable[[Listener], BoardServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TIMERS_BOARD", "off")
    client = SocketTimerClient(listener.path)
    blocks(client, "x")
    server = serve(listener)
    server.wait(lambda: len(server.messages) == 2)
    assert server.boards == []


# -- the end --------------------------------------------------------------------------------------


def test_a_forgotten_client_leaves_no_thread_and_no_descriptor(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    before = descriptors()
    threads = set(threading.enumerate())
    client = SocketTimerClient(listener.path)
    blocks(client, "x", 3)
    assert descriptors() - before
    server = serve(listener)
    own = server.board
    assert not own.words[board.CLOSED]
    server.serve()
    del client
    gc.collect()
    eventually(lambda: set(threading.enumerate()) <= threads)
    assert own.words[board.CLOSED]
    assert own.is_over
    assert server.counts == {"x": (3, 3)}  # what it counted is there still
    del own
    server.boards.clear()
    server.close()
    eventually(lambda: descriptors() <= before)


def test_a_pickled_client_is_the_same_client_elsewhere(
    listener: Listener, serve: Callable[[Listener], BoardServer]
) -> None:
    original = SocketTimerClient(listener.path, signal=15, on_error="warn")
    blocks(original, "x")
    client = pickle.loads(pickle.dumps(original))
    assert isinstance(client, SocketTimerClient)
    first = serve(listener)
    with timers.expires(60, "x", client):
        second = serve(listener)
        [slot] = second.open
    assert slot.signal == 15
    assert client._errors.choice == "warn"
    assert first.board.file != second.board.file


ENDS = """
import sys, timers
timers.configure(timers.SocketTimerClient(sys.argv[1]))
open_block = timers.expires(600, "open")
open_block.__enter__()
for _ in range(int(sys.argv[2])):
    with timers.expires(600, "x"):
        pass
print("left", flush=True)
if sys.argv[3] == "killed":
    sys.stdin.read()
import os; os._exit(0)
"""


@pytest.mark.parametrize("how", ["ends", "killed"])
def test_what_a_process_counted_outlives_it(
    listener: Listener, serve: Callable[[Listener], BoardServer], how: str
) -> None:
    command = [sys.executable, "-c", ENDS, listener.path, "3000", how]
    with subprocess.Popen(
        command, env=same_path(), stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as process:
        server = serve(listener)
        server.board  # noqa: B018  # waits for it
        assert process.stdout is not None
        assert process.stdout.readline() == b"left\n"
        if how == "killed":
            process.kill()
    assert server.counts == {"open": (1, 0), "x": (3000, 3000)}
    assert [slot.scope for slot in server.open] == ["open"]


@FORKS
def test_a_program_that_closed_every_descriptor_is_no_trouble(
    listener: Listener, serve: Callable[[Listener], BoardServer], tmp_path: Path
) -> None:
    def becomes_a_daemon() -> bool:
        client = SocketTimerClient(listener.path)
        blocks(client, "before", 3)
        block = timers.expires(60, "open", client)
        block.__enter__()
        os.closerange(3, 256)
        own = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(9)]
        os.write(own[-1], b"mine")
        assert client._channel.board is not None
        client._channel.board.words[board.LOOK] = NONE - 1  # everything is due before that
        blocks(client, "after", 5)
        gc.collect()
        assert [os.fstat(fd).st_size for fd in own] == [0] * 8 + [4]
        client._channel.close()
        del client, block
        gc.collect()
        assert [os.fstat(fd).st_size for fd in own] == [0] * 8 + [4]
        return True

    assert in_child(becomes_a_daemon)
    first, second = serve(listener), serve(listener)
    assert first.board.file != second.board.file
    assert second.counts == {"before": (3, 3), "open": (1, 1), "after": (5, 5)}
