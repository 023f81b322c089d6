"""``expires()``: what a client is told, whatever happens in and around the block."""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import fractions
import functools
import inspect
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import timers
from support.children import FORKS, in_child
from timers import expires
from timers.errors import ClientNotConfiguredError, TimerError
from timers.testing import Call, RecordingClient
from timers.worker import _foreign
from timers.worker._client_slots import ClientWithSlots
from timers.worker.slots.messages import Channel, MessageSlot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timers.transport.receipt import Receipt
    from timers.worker.slots.request import Request
    from timers.worker.slots.slot import Slot


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Every test closes its blocks; and none leaves a client behind for the next."""
    yield
    timers.configure(None)
    known = [slots for _, slots in _foreign._clients.by_id.values()]
    _foreign._clients.by_id.clear()
    assert [
        slot.scope for slots in known for slot in slots.by_scope.values() if slot.is_needed
    ] == []


@pytest.fixture
def client() -> RecordingClient:
    return RecordingClient()


class Strict(timers.TimerClient):
    """A client written for torch: exactly its two signatures, and nothing else."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        self.calls.append((scope_id, expiration_time))

    def release(self, scope_id: str) -> None:
        self.calls.append((scope_id,))


class Failing(RecordingClient):
    """Raises what it was given, after having noted the call."""

    def __init__(
        self,
        on_acquire: BaseException | None = None,
        on_release: BaseException | None = None,
    ) -> None:
        super().__init__()
        self._on_acquire = on_acquire
        self._on_release = on_release

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        super().acquire(scope_id, expiration_time)
        if self._on_acquire is not None:
            raise self._on_acquire

    def release(self, scope_id: str) -> None:
        super().release(scope_id)
        if self._on_release is not None:
            raise self._on_release


class Noting(ClientWithSlots):
    """Notes what is sent of each block, as our own clients send it."""

    def __init__(self) -> None:
        self.announced: list[Request] = []
        super().__init__()

    def _make_slot(self, scope: str, thread: int) -> Slot:
        return MessageSlot(_Notes(self), scope, thread)

    def note(self, request: Request) -> None:
        self.announced.append(request)

    @property
    def calls(self) -> list[Call]:
        return [
            Call("release", request.scope_id, None)
            if request.is_release
            else Call("acquire", request.scope_id, request.expiration_time)
            for request in self.announced
        ]

    @property
    def names(self) -> list[tuple[str, str]]:
        return [(call.name, call.scope_id) for call in self.calls]


class _Notes(Channel):
    def __init__(self, client: Noting) -> None:
        super().__init__(None)
        self._client = client

    def write(self, request: Request, receipt: Receipt, totals: tuple[int, int]) -> None:
        self._client.note(request)
        receipt.sent = totals


def line_of(needle: str) -> int:
    """The line of this file that ends with the comment ``needle``."""
    lines, first = inspect.getsourcelines(inspect.getmodule(line_of) or line_of)
    (found,) = [number for number, text in enumerate(lines) if text.endswith(f"# {needle}\n")]
    return max(first, 1) + found


# -- one block ------------------------------------------------------------------------------------


def test_a_block_is_an_acquire_and_a_release(client: RecordingClient) -> None:
    before = time.time()
    with expires(after=60, scope="x", client=client):
        after = time.time()
        assert client.names == [("acquire", "x")]
    assert client.names == [("acquire", "x"), ("release", "x")]
    expiration_time = client.calls[0].expiration_time
    assert expiration_time is not None
    assert before + 60 <= expiration_time <= after + 60


def test_a_custom_client_gets_exactly_torchs_arguments() -> None:
    client = Strict()
    with expires(1, "x", client), expires(after=2, scope="x", client=client):
        pass
    assert [len(call) for call in client.calls] == [2, 2, 2, 1]
    assert {call[0] for call in client.calls} == {"x"}
    assert {type(call[1]) for call in client.calls[:3]} == {float}


def test_the_configured_client_is_used_unless_another_is_given(client: RecordingClient) -> None:
    other = RecordingClient()
    timers.configure(client)
    with expires(1, "configured"), expires(1, "given", other):
        pass
    assert client.names == [("acquire", "configured"), ("release", "configured")]
    assert other.names == [("acquire", "given"), ("release", "given")]


def test_a_client_is_released_although_another_was_configured_meanwhile(
    client: RecordingClient,
) -> None:
    timers.configure(client)
    with expires(1, "x"):
        timers.configure(RecordingClient())
    assert client.names == [("acquire", "x"), ("release", "x")]


def test_a_client_that_is_false_is_a_client() -> None:
    class Empty(RecordingClient):
        def __len__(self) -> int:
            return 0

    client = Empty()
    with expires(1, "x", client):
        pass
    assert client.names == [("acquire", "x"), ("release", "x")]


def test_without_a_client_it_says_what_to_do() -> None:
    timers.configure(None)
    block = expires(1, "x")  # making one is no error
    with pytest.raises(RuntimeError, match=r"no timer client configured: call timers\.configure"):
        block.__enter__()
    assert issubclass(ClientNotConfiguredError, TimerError)


def test_the_value_of_a_block_is_none_as_in_torch(client: RecordingClient) -> None:
    with contextlib.ExitStack() as stack:
        value: object = stack.enter_context(expires(1, "x", client))
        assert value is None
    assert client.names[-1] == ("release", "x")


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [-1, -0.001, math.nan, math.inf, -math.inf, 10**400])
def test_an_impossible_duration_is_a_value_error(after: float) -> None:
    with pytest.raises(ValueError, match=r"expires\(after=.*finite number of seconds"):
        expires(after=after, scope="x")


@pytest.mark.parametrize("after", ["5", b"5", None, [], {}, "abc", 1j])
def test_what_is_no_number_is_a_type_error(after: Any) -> None:
    with pytest.raises(TypeError):
        expires(after=after, scope="x")


@pytest.mark.parametrize("scope", [3, b"x", [], object()])
def test_a_scope_that_is_no_string_is_a_type_error(scope: Any) -> None:
    with pytest.raises(TypeError, match="must be a string"):
        expires(after=1, scope=scope)


@pytest.mark.parametrize(
    "after", [0, 0.0, 1, 2.5, True, decimal.Decimal("1.5"), fractions.Fraction(1, 3)]
)
def test_every_kind_of_number_will_do(client: RecordingClient, after: Any) -> None:
    with expires(after=after, scope="x", client=client):
        pass
    assert type(client.calls[0].expiration_time) is float


@pytest.mark.parametrize("after", [1e10, 1e300, 2**1000, 2**63])
def test_for_ever_is_a_century(after: float) -> None:
    client = Noting()
    with expires(after=after, scope="x", client=client):
        pass
    announced = client.announced[0]
    assert 3e9 <= announced.expiration_time < 9e9
    assert 0 < announced.deadline_ns < 2**63
    assert announced.after == 3e9


@pytest.mark.parametrize("warn_after", [0, -1, 10, 11, math.nan, math.inf])
def test_a_warning_comes_within_the_block_or_not_at_all(warn_after: float) -> None:
    expires(after=10, warn_after=9.999)
    with pytest.raises(ValueError, match=r"warn_after=.*more than 0 and less than after"):
        expires(after=10, warn_after=warn_after)


def test_the_warning_is_announced_and_the_outer_blocks_own_when_the_inner_one_ends() -> None:
    client = Noting()
    with expires(10, "x", client, warn_after=5), expires(10, "x", client, warn_after=3):
        pass
    with expires(10, "x", client):
        pass
    assert [a.warn_after for a in client.announced] == [5, 3, 5, None, None, None]


# -- the default scope ----------------------------------------------------------------------------


def scope_of(block: expires) -> str:
    client = RecordingClient()
    block._client = client
    with block:
        pass
    return client.calls[0].scope_id


def test_the_default_scope_is_the_callers_line() -> None:
    assert scope_of(expires(1)) == f"{__file__}#{line_of('direct')}"  # direct


def test_two_unnamed_blocks_are_two_scopes(client: RecordingClient) -> None:
    with expires(1, client=client):
        with expires(1, client=client):
            pass
        assert [call.name for call in client.calls] == ["acquire", "acquire", "release"]
    outer, inner, inner_again, outer_again = (call.scope_id for call in client.calls)
    assert (inner, outer) == (inner_again, outer_again)
    assert inner != outer


def test_the_default_scope_of_a_decorated_function_is_the_line_of_the_decorator(
    client: RecordingClient,
) -> None:
    @expires(1, client=client)  # decorator
    def work() -> None:
        pass

    work()
    assert client.calls[0].scope_id == f"{__file__}#{line_of('decorator')}"


def test_the_default_scope_inside_a_helper_is_the_helpers_line() -> None:
    def helper() -> expires:
        return expires(1)  # helper

    assert scope_of(helper()) == f"{__file__}#{line_of('helper')}"


def test_functools_partial_is_no_caller() -> None:
    minute = functools.partial(expires, after=60)
    assert scope_of(minute()) == f"{__file__}#{line_of('partial')}"  # partial


def test_one_line_in_a_loop_is_one_scope(client: RecordingClient) -> None:
    for _ in range(3):
        with expires(1, client=client):
            pass
    assert len({call.scope_id for call in client.calls}) == 1
    assert [call.name for call in client.calls] == ["acquire", "release"] * 3


# -- blocks in blocks -----------------------------------------------------------------------------


def test_leaving_an_inner_block_of_the_same_scope_restarts_the_outer_one() -> None:
    client = Noting()
    with expires(100, "x", client):
        with expires(1, "x", client):
            pass
        restarted = client.calls[-1]
        expected = time.time() + 100
    assert client.names == [("acquire", "x")] * 3 + [("release", "x")]
    assert restarted.expiration_time == pytest.approx(expected, abs=30)
    outer, inner, leave, release = client.announced
    assert [a.nested for a in (outer, inner, leave, release)] == [False, True, False, False]
    assert [a.leave for a in (outer, inner, leave, release)] == [False, False, True, False]
    assert [a.after for a in (outer, inner, leave)] == [100, 1, 100]
    assert leave.deadline_ns >= outer.deadline_ns


def test_three_deep_each_exit_restarts_the_next_one_out() -> None:
    client = Noting()
    with expires(3, "x", client), expires(2, "x", client), expires(1, "x", client):
        pass
    assert [a.after for a in client.announced[:-1]] == [3, 2, 1, 2, 3]
    assert [call.name for call in client.calls] == ["acquire"] * 5 + ["release"]


def test_blocks_of_different_scopes_know_nothing_of_each_other(client: RecordingClient) -> None:
    with expires(1, "x", client), expires(1, "y", client):
        pass
    assert client.names == [("acquire", "x"), ("acquire", "y"), ("release", "y"), ("release", "x")]


def test_blocks_of_different_clients_know_nothing_of_each_other() -> None:
    outer, inner = Noting(), Noting()
    with expires(1, "x", outer):
        with expires(1, "x", inner):
            with expires(1, "x", outer):
                pass
            assert [call.name for call in outer.calls] == ["acquire", "acquire", "acquire"]
        assert [call.name for call in inner.calls] == ["acquire", "release"]
    assert [call.name for call in outer.calls] == ["acquire"] * 3 + ["release"]
    assert [a.nested for a in inner.announced] == [False, False]
    assert [a.nested for a in outer.announced] == [False, True, False, False]


def test_every_exit_is_exactly_one_message(client: RecordingClient) -> None:
    depth = 20
    with contextlib.ExitStack() as stack:
        for _ in range(depth):
            stack.enter_context(expires(1, "x", client))
        assert len(client.calls) == depth
        stack.pop_all().close()
        assert len(client.calls) == 2 * depth
    assert client.names[-1] == ("release", "x")


def test_blocks_that_are_not_left_in_order() -> None:
    client = Noting()
    first, second = expires(5, "x", client), expires(7, "x", client)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    first_exit = client.announced[-1]
    second.__exit__(None, None, None)
    assert [call.name for call in client.calls] == ["acquire", "acquire", "acquire", "release"]
    # The one that goes on keeps the deadline it has: nothing was restarted for it.
    assert first_exit.deadline_ns == client.announced[1].deadline_ns
    assert (first_exit.after, first_exit.leave) == (7, True)


def test_leaving_what_was_never_entered_is_an_error(client: RecordingClient) -> None:
    with pytest.raises(RuntimeError, match="left but never entered"):
        expires(1, "x", client).__exit__(None, None, None)
    with expires(1, "x", client), pytest.raises(RuntimeError, match="left but never entered"):
        expires(1, "x", client).__exit__(None, None, None)
    assert client.names == [("acquire", "x"), ("release", "x")]


# -- one instance, used again ----------------------------------------------------------------------


def test_an_instance_may_be_used_again_and_inside_itself(client: RecordingClient) -> None:
    block = expires(1, "x", client)
    for _ in range(2):
        with block:
            pass
    with block, block, block:
        pass
    assert [call.name for call in client.calls] == [
        *("acquire", "release") * 2,
        *("acquire",) * 5,
        "release",
    ]


def test_a_decorated_function_may_call_itself() -> None:
    client = Noting()

    @expires(1, "x", client)
    def factorial(number: int) -> int:
        return number * factorial(number - 1) if number else 1

    assert factorial(4) == 24
    assert [call.name for call in client.calls] == ["acquire"] * 9 + ["release"]
    assert [a.nested for a in client.announced] == [False] + [True] * 4 + [False] * 5


# -- decorators ------------------------------------------------------------------------------------


def test_a_decorated_function_stays_what_it_was(client: RecordingClient) -> None:
    @expires(1, "x", client)
    def work(a: int, /, b: int, *rest: int, c: int = 3, **more: int) -> tuple[object, ...]:
        """What it does."""
        assert client.names == [("acquire", "x")]
        return (a, b, rest, c, more)

    assert work(1, 2, 4, c=5, d=6) == (1, 2, (4,), 5, {"d": 6})
    assert client.names == [("acquire", "x"), ("release", "x")]
    assert (work.__name__, work.__doc__) == ("work", "What it does.")
    assert not inspect.iscoroutinefunction(work)


def test_a_decorated_coroutine_function_is_guarded_until_it_is_done(
    client: RecordingClient,
) -> None:
    @expires(1, "x", client)
    async def work(number: int) -> int:
        await asyncio.sleep(0)
        assert client.names == [("acquire", "x")]
        return number + 1

    assert inspect.iscoroutinefunction(work)
    coroutine = work(1)
    assert client.calls == []  # calling a coroutine function runs nothing
    assert asyncio.run(coroutine) == 2
    assert client.names == [("acquire", "x"), ("release", "x")]


def test_a_decorated_method(client: RecordingClient) -> None:
    class Trainer:
        @expires(1, "step", client)
        def step(self, number: int) -> tuple[Trainer, int]:
            return self, number

    trainer = Trainer()
    assert trainer.step(3) == (trainer, 3)
    assert client.names == [("acquire", "step"), ("release", "step")]


def test_a_decorated_function_that_fails_releases(client: RecordingClient) -> None:
    @expires(1, "x", client)
    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert client.names == [("acquire", "x"), ("release", "x")]


# -- asyncio --------------------------------------------------------------------------------------


def test_async_with(client: RecordingClient) -> None:
    async def work() -> None:
        async with expires(1, "x", client):
            await asyncio.sleep(0)
            assert client.names == [("acquire", "x")]

    asyncio.run(work())
    assert client.names == [("acquire", "x"), ("release", "x")]


def test_tasks_that_take_turns_in_one_scope_never_leave_one_unprotected() -> None:
    client = Noting()

    async def scenario() -> None:
        entered = [asyncio.Event(), asyncio.Event()]
        leave = [asyncio.Event(), asyncio.Event()]

        async def task(number: int) -> None:
            async with expires(number + 10, "x", client):
                entered[number].set()
                await leave[number].wait()

        first = asyncio.create_task(task(0))
        await entered[0].wait()
        second = asyncio.create_task(task(1))
        await entered[1].wait()
        leave[0].set()
        await first
        assert [call.name for call in client.calls] == ["acquire"] * 3
        leave[1].set()
        await second

    asyncio.run(scenario())
    assert [call.name for call in client.calls] == ["acquire"] * 3 + ["release"]
    assert client.announced[2].after == 11  # what still runs is the second one
    assert client.announced[2].deadline_ns == client.announced[1].deadline_ns


def test_tasks_of_one_decorated_function_take_turns() -> None:
    client = Noting()

    @expires(1, "x", client)
    async def work(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    async def scenario() -> None:
        await asyncio.gather(*(work(turns) for turns in (5, 1, 3, 2, 4)))

    asyncio.run(scenario())
    assert [call.name for call in client.calls] == ["acquire"] * 9 + ["release"]


def test_a_cancelled_task_releases(client: RecordingClient) -> None:
    async def scenario() -> None:
        entered = asyncio.Event()

        async def work() -> None:
            async with expires(1, "x", client):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await entered.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert client.names == [("acquire", "x"), ("release", "x")]


# -- threads --------------------------------------------------------------------------------------


def in_thread(work: Callable[[], object]) -> int:
    """Run ``work`` in a thread of its own; return that thread's native id."""
    failures: list[BaseException] = []
    native: list[int] = []

    def run() -> None:
        native.append(threading.get_native_id())
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # shown below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failures == []
    return native[0]


def test_threads_that_share_a_scope_have_blocks_of_their_own() -> None:
    client = Noting()

    def work() -> None:
        with expires(1, "x", client):
            pass

    with expires(1, "x", client):
        thread = in_thread(work)
    assert [call.name for call in client.calls] == ["acquire", "acquire", "release", "release"]
    mine = threading.get_native_id()
    assert [a.thread for a in client.announced] == [mine, thread, thread, mine]
    assert not any(a.nested or a.leave for a in client.announced)


def test_a_block_left_by_another_thread_is_released_for_the_one_that_entered_it() -> None:
    client = Noting()
    block = expires(1, "x", client)
    entered_in = in_thread(block.__enter__)
    block.__exit__(None, None, None)
    assert [call.name for call in client.calls] == ["acquire", "release"]
    assert [a.thread for a in client.announced] == [entered_in, entered_in]


def test_a_block_left_elsewhere_does_not_touch_the_block_of_that_thread() -> None:
    client = Noting()
    foreign = expires(1, "x", client)
    entered_in = in_thread(foreign.__enter__)
    with expires(1, "x", client):
        foreign.__exit__(None, None, None)
        assert client.announced[-1].thread == entered_in
    mine = threading.get_native_id()
    assert [a.thread for a in client.announced] == [entered_in, mine, entered_in, mine]
    assert [call.name for call in client.calls] == ["acquire", "acquire", "release", "release"]


def test_many_threads_through_one_instance() -> None:
    client = Noting()
    block = expires(1, "x", client)
    rounds, workers = 200, 8

    def work() -> None:
        for _ in range(rounds):
            with block, block:
                pass

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [call.name for call in client.calls]
    assert names.count("acquire") == 3 * rounds * workers
    assert names.count("release") == rounds * workers


# -- when the client fails -------------------------------------------------------------------------


def test_a_failing_release_does_not_fail_a_block_that_succeeded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = Failing(on_release=BrokenPipeError("no server"))
    with caplog.at_level(logging.WARNING, "timers.worker.scopes"), expires(1, "x", client):
        done = True
    assert done
    assert client.names == [("acquire", "x"), ("release", "x")]
    (record,) = caplog.records
    assert "'x'" in record.getMessage()
    assert "no server" in record.getMessage()


def test_a_failing_release_does_not_mask_the_exception_of_the_block() -> None:
    client = Failing(on_release=BrokenPipeError("no server"))

    def work() -> None:
        with expires(1, "x", client):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        work()
    assert raised.value.__context__ is None
    assert client.names == [("acquire", "x"), ("release", "x")]


def test_a_failing_restart_of_the_outer_block_is_no_failure_either() -> None:
    class FailsLater(RecordingClient):
        def acquire(self, scope_id: str, expiration_time: float) -> None:
            super().acquire(scope_id, expiration_time)
            if len(self.calls) == 3:
                raise BrokenPipeError("no server")

    client = FailsLater()
    with expires(1, "x", client), expires(1, "x", client):
        pass
    assert [call.name for call in client.calls] == ["acquire"] * 3 + ["release"]


def test_a_failing_acquire_is_raised_and_leaves_no_block_behind() -> None:
    client = Failing(on_acquire=BrokenPipeError("no server"))
    ran = False

    def work() -> None:
        nonlocal ran
        with expires(1, "x", client):
            ran = True

    for _ in range(2):
        with pytest.raises(BrokenPipeError, match="no server"):
            work()
    assert not ran
    assert client.names == [("acquire", "x")] * 2
    good = Noting()
    with expires(1, "x", good):
        pass
    assert not good.announced[0].nested


def test_a_failing_inner_acquire_leaves_the_outer_block_as_it_was() -> None:
    class FailsSecond(Noting):
        def acquire(self, scope_id: str, expiration_time: float) -> None:
            super().acquire(scope_id, expiration_time)
            if len(self.calls) == 2:
                raise BrokenPipeError("no server")

    client = FailsSecond()
    with expires(1, "x", client), pytest.raises(BrokenPipeError):
        expires(1, "x", client).__enter__()
    assert [call.name for call in client.calls] == ["acquire", "acquire", "release"]


def test_an_interrupt_in_the_block_releases_and_goes_on() -> None:
    client = Noting()

    @expires(1, "x", client)
    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert client.names == [("acquire", "x"), ("release", "x")]
    assert client.announced[-1].error == "KeyboardInterrupt"


def test_an_interrupt_in_the_release_is_not_swallowed() -> None:
    client = Failing(on_release=KeyboardInterrupt())
    block = expires(1, "x", client)
    block.__enter__()
    with pytest.raises(KeyboardInterrupt):
        block.__exit__(None, None, None)
    assert client.names == [("acquire", "x"), ("release", "x")]


def test_an_interrupt_in_the_acquire_leaves_no_timer_behind() -> None:
    # Whether the client had sent anything by then only the client knows: a release ends it.
    client = Failing(on_acquire=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        expires(1, "x", client).__enter__()
    assert client.names == [("acquire", "x"), ("release", "x")]


def test_the_name_of_the_exception_is_announced_on_every_way_out() -> None:
    client = Noting()

    @expires(2, "x", client)
    def outer() -> None:
        with contextlib.suppress(KeyError), expires(1, "x", client):
            raise KeyError
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        outer()
    assert [a.error for a in client.announced] == [None, None, "KeyError", "ValueError"]


# -- fork -----------------------------------------------------------------------------------------


@FORKS
def test_a_child_that_leaves_the_block_it_was_forked_in_sends_nothing() -> None:
    client = Noting()
    block = expires(1, "x", client)
    block.__enter__()

    def leave_in_child() -> bool:
        block.__exit__(None, None, None)
        return client.names == [("acquire", "x")]

    assert in_child(leave_in_child)
    assert client.names == [("acquire", "x")]  # the child's list is the child's
    block.__exit__(None, None, None)
    assert client.names == [("acquire", "x"), ("release", "x")]


@FORKS
def test_a_block_of_a_forked_child_inside_the_block_it_was_forked_in() -> None:
    client = Noting()
    timers.configure(client)

    def work() -> bool:
        with expires(2, "x"):
            pass
        own = client.announced[1:]
        return [call.name for call in client.calls[1:]] == ["acquire", "release"] and (
            {a.thread for a in own} == {threading.get_native_id()}
        )

    with expires(1, "x"):
        assert in_child(work)
    assert client.names == [("acquire", "x"), ("release", "x")]
