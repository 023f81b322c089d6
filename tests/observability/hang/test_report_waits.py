"""What a thread waits for, from the frames and kernel facts of real ones."""

from __future__ import annotations

import pytest

from observability.samples.waits import Peers, Wait, judge
from timers.linux.procfs import ProcessFacts
from timers.stacks.take import Frame

LIB = "/usr/lib/python3.11"
SITE = "/opt/venv/lib/python3.11/site-packages"
JOB = Frame("step", "/job/train.py", 10)


def lib(*calls: str, where: str = LIB) -> tuple[Frame, ...]:
    """``function file.py`` each, innermost first."""
    words = (call.split() for call in calls)
    return tuple(Frame(function, f"{where}/{file}", 1) for function, file in words)


SLEEPING = ProcessFacts(state="sleeping")


@pytest.mark.parametrize(
    ("frames", "wait"),
    [
        (
            lib(
                "Condition.wait multiprocessing/synchronize.py",
                "Condition.wait_for multiprocessing/synchronize.py",
                "Barrier._wait threading.py",
                "Barrier.wait threading.py",
            ),
            Wait.COLLECTIVE,
        ),
        (
            lib("Condition.wait threading.py", "Barrier._wait threading.py", "wait threading.py"),
            Wait.EVENT,
        ),
        (lib("SemLock.__enter__ multiprocessing/synchronize.py"), Wait.LOCK),
        (lib("Condition.wait threading.py", "Queue.get queue.py"), Wait.QUEUE),
        (
            lib("Connection._recv multiprocessing/connection.py", "get multiprocessing/queues.py"),
            Wait.QUEUE,
        ),
        (lib("_try_wait subprocess.py", "wait subprocess.py", "run subprocess.py"), Wait.CHILD),
        (lib("select selectors.py", "_communicate subprocess.py"), Wait.CHILD),
        (lib("poll multiprocessing/popen_fork.py", "join multiprocessing/process.py"), Wait.CHILD),
        (lib("_wait_for_tstate_lock threading.py", "join threading.py"), Wait.THREAD),
        (
            lib("wait threading.py", "wait threading.py", "get multiprocessing/pool.py"),
            Wait.CHILD,
        ),
        (lib("wait threading.py", "result concurrent/futures/_base.py"), Wait.EVENT),
        (
            lib(
                "select selectors.py", "_run_once asyncio/base_events.py", "run asyncio/runners.py"
            ),
            Wait.EVENT_LOOP,
        ),
        (lib("accept socket.py"), Wait.NETWORK),
        (lib("readinto socket.py", "_read_status http/client.py"), Wait.NETWORK),
        (lib("select selectors.py"), Wait.POLL),
        (
            lib("poll multiprocessing/connection.py", "get multiprocessing/queues.py")
            + lib("_try_get_data torch/utils/data/dataloader.py", where=SITE),
            Wait.CHILD,
        ),
        (
            lib(
                "all_reduce torch/distributed/distributed_c10d.py",
                "wrapper torch/distributed/c10d_logger.py",
                where=SITE,
            ),
            Wait.COLLECTIVE,
        ),
        (lib("recv torch/distributed/distributed_c10d.py", where=SITE), Wait.POINT_TO_POINT),
    ],
)
def test_the_machinery_of_waiting(frames: tuple[Frame, ...], wait: Wait) -> None:
    for is_main in (True, False):
        found = judge((*frames, JOB), SLEEPING, is_main=is_main, active=False)
        assert found.wait is wait
        assert found.machinery == len(frames)
        assert (found.peers is Peers.CERTAIN) == wait.is_for_peers


def test_the_name_of_the_operation_is_that_which_the_job_called() -> None:
    frames = lib(
        "all_gather torch/distributed/distributed_c10d.py",
        "_exception_logger.<locals>.wrapper torch/distributed/c10d_logger.py",
        "all_gather_object torch/distributed/distributed_c10d.py",
        "_exception_logger.<locals>.wrapper torch/distributed/c10d_logger.py",
        where=SITE,
    )
    found = judge((*frames, JOB), SLEEPING, is_main=True, active=False)
    assert found.operation == "all_gather_object"


@pytest.mark.parametrize(
    "frames",
    [
        # A callback of an event loop, a checkpoint, the job's own code that a library called.
        lib("dump json/__init__.py", "_run asyncio/events.py", "_run_once asyncio/base_events.py"),
        lib("write_data torch/distributed/checkpoint/filesystem.py", where=SITE),
        (JOB, *lib("all_gather_object torch/distributed/distributed_c10d.py", where=SITE)),
    ],
)
def test_only_the_innermost_calls_count(frames: tuple[Frame, ...]) -> None:
    facts = ProcessFacts(state="sleeping", wait_channel="hrtimer_nanosleep")
    found = judge(frames, facts, is_main=True, active=False)
    assert (found.wait, found.peers) == (Wait.SLEEP, Peers.NO)


@pytest.mark.parametrize(
    ("channel", "wait"),
    [
        ("hrtimer_nanosleep", Wait.SLEEP),
        ("futex_wait_queue", Wait.FUTEX),
        ("do_wait", Wait.CHILD),
        ("anon_pipe_read", Wait.PIPE),
        ("wait_woken", Wait.NETWORK),
        ("unix_stream_read_generic", Wait.NETWORK),
        ("poll_schedule_timeout.constprop.0", Wait.POLL),
        ("do_epoll_wait", Wait.POLL),
        ("locks_lock_inode_wait", Wait.LOCK),
        ("rpc_wait_bit_killable", Wait.STORAGE),
        ("folio_wait_bit_common", Wait.STORAGE),
        ("something_new", Wait.UNKNOWN),
    ],
)
def test_where_python_says_nothing_the_kernel_does(channel: str, wait: Wait) -> None:
    facts = ProcessFacts(state="sleeping", wait_channel=channel)
    assert judge((JOB,), facts, is_main=True, active=False).wait is wait
    # What the kernel says is about the main thread only.
    assert judge((JOB,), facts, is_main=False, active=False).wait is Wait.UNKNOWN


@pytest.mark.parametrize(
    ("machine", "number", "wait"),
    [
        ("x86_64", "230", Wait.SLEEP),
        ("x86_64", "202", Wait.FUTEX),
        ("aarch64", "202", Wait.NETWORK),
        ("aarch64", "98", Wait.FUTEX),
        ("riscv64", "98", Wait.UNKNOWN),
    ],
)
def test_system_calls_help_where_the_wait_channel_is_hidden(
    machine: str, number: str, wait: Wait
) -> None:
    facts = ProcessFacts(state="sleeping", system_call=number)
    assert judge((JOB,), facts, is_main=True, active=False, machine=machine).wait is wait


@pytest.mark.parametrize(
    ("function", "file", "wait"),
    [
        ("clock_nanosleep", "libc.so.6", Wait.SLEEP),
        ("gloo::transport::tcp::Buffer::waitRecv", "libtorch_cpu.so", Wait.COLLECTIVE),
        ("ncclCommInitRank", "libnccl.so.2", Wait.COLLECTIVE),
        ("take_gil", "python3.11", Wait.GIL),
        ("__libc_recv", "libc.so.6", Wait.NETWORK),
    ],
)
def test_c_frames_tell_where_there_are_some(function: str, file: str, wait: Wait) -> None:
    frames = (Frame(function, f"/usr/lib/{file}", 0), JOB)
    assert judge(frames, SLEEPING, is_main=False, active=False).wait is wait


def test_a_collective_that_the_job_implements_is_known_by_its_name_while_it_waits() -> None:
    frames = (Frame("recv_exactly", "/job/net.py", 4), Frame("Ring.all_reduce", "/job/net.py", 9))
    facts = ProcessFacts(state="sleeping", wait_channel="wait_woken")
    found = judge(frames, facts, is_main=True, active=False)
    assert (found.wait, found.peers, found.operation) == (
        Wait.NETWORK,
        Peers.BY_NAME,
        "all_reduce",
    )
    asleep = ProcessFacts(state="sleeping", wait_channel="hrtimer_nanosleep")
    assert judge(frames, asleep, is_main=True, active=False).peers is Peers.NO
    plain = (Frame("load", "/job/data.py", 4),)
    for scope in ("all_reduce", "MPI_Bcast"):
        assert judge(plain, facts, is_main=True, active=False, scope_id=scope).peers is (
            Peers.BY_SCOPE
        )
    assert judge(plain, facts, is_main=True, active=False, scope_id="step").peers is Peers.NO


def test_who_is_on_a_cpu_computes_unless_it_sleeps_with_the_gil() -> None:
    running = ProcessFacts(state="running", system_call="running")
    assert judge((JOB,), running, is_main=True, active=True).wait is Wait.COMPUTE
    holding = ProcessFacts(state="sleeping", wait_channel="hrtimer_nanosleep")
    assert judge((JOB,), holding, is_main=True, active=True).wait is Wait.SLEEP
    assert judge((JOB,), SLEEPING, is_main=False, active=True).wait is Wait.COMPUTE
