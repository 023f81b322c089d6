"""What a thread waits for, judged from its innermost calls and from what the kernel says.

Three sources, the first that knows decides:

1. Python's own machinery of waiting (:mod:`threading`, :mod:`multiprocessing`, :mod:`subprocess`,
   torch.distributed and the like): the innermost calls that belong to it, taken together.
2. C frames, in a stack that has them.
3. The kernel function the process sleeps in (``wchan``), else its system call. Both are of the
   main thread, so they say nothing about another one.
"""

from __future__ import annotations

import enum
import platform
import re
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from .hang_frames import is_own, is_python, library_path, plain_function

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from timers.procfs import ProcessFacts
    from timers.stacks import Frame

__all__ = ["Peers", "Reason", "Wait", "judge", "names_collective"]


class Wait(enum.Enum):
    """What a thread is doing; the value is how a sentence about it goes on after "it"."""

    COLLECTIVE = "waits for the other ranks"
    POINT_TO_POINT = "waits for another rank"
    CHILD = "waits for a process it started"
    THREAD = "waits for another of its threads"
    QUEUE = "waits for an item of a queue"
    LOCK = "waits for a lock"
    EVENT = "waits to be notified"
    FUTEX = "waits for a lock or a notification"
    NETWORK = "waits for data from a socket"
    PIPE = "waits for data from a pipe"
    POLL = "waits for one of its descriptors"
    EVENT_LOOP = "has an event loop with nothing to do"
    STORAGE = "waits for storage"
    SLEEP = "sleeps"
    SIGNAL = "waits for a signal"
    GIL = "waits for a thread that holds the GIL"
    COMPUTE = "runs"
    UNKNOWN = "waits"

    @property
    def may_be_for_peers(self) -> bool:
        """Whether somebody who only waits for another worker could look like this."""
        return self in _MAYBE or self.is_for_peers

    @property
    def is_for_peers(self) -> bool:
        """Whether it is an operation that ends when other workers join it."""
        return self in (Wait.COLLECTIVE, Wait.POINT_TO_POINT)

    @property
    def is_for_own_things(self) -> bool:
        """Whether it is for what each worker has of its own: storage, its child processes."""
        return self in (Wait.STORAGE, Wait.CHILD, Wait.THREAD)


_MAYBE = frozenset(
    {
        Wait.QUEUE,
        Wait.LOCK,
        Wait.EVENT,
        Wait.FUTEX,
        Wait.NETWORK,
        Wait.PIPE,
        Wait.POLL,
        Wait.EVENT_LOOP,
        Wait.UNKNOWN,
    }
)


class Peers(enum.IntEnum):
    """How sure it is that a worker waits for the other workers."""

    NO = 0
    BY_SCOPE = 1
    """Its timer is named like a collective operation, and it waits for something."""
    BY_NAME = 2
    """A function of the job is named like one, and it waits in there."""
    CERTAIN = 3
    """It is inside an operation of a library that is known to wait for the others."""


class Reason(NamedTuple):
    """What a thread waits for."""

    wait: Wait
    peers: Peers = Peers.NO
    operation: str = ""
    """The name of the collective operation."""
    machinery: int = 0
    """How many of its innermost frames belong to the machinery of waiting."""


NEAR = 4
"""How many calls of the job's own may lie between a collective that it implements and the wait."""
_COLLECTIVE_WORDS = re.compile(
    r"(?:^|_)(?:all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|barrier|rendezvous"
    r"|broadcast|bcast|(?:sync|wait_for)_(?:peers|all|everyone|ranks|workers))(?:_|$|\d)",
    re.IGNORECASE,
)
_SCOPE_WORDS = re.compile(
    r"all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|barrier|rendezvous|collective",
    re.IGNORECASE,
)
_POINT_TO_POINT = frozenset(
    {"send", "recv", "isend", "irecv", "sendrecv", "batch_isend_irecv", "send_object_list",
     "recv_object_list"}
)  # fmt: skip

# Library path, function, what it means. In a run of such frames the outermost decides.
_PYTHON_RULES: tuple[tuple[re.Pattern[str], re.Pattern[str], Wait | None], ...] = tuple(
    (re.compile(path), re.compile(function), wait)
    for path, function, wait in (
        (r"torch/utils/data/(?!_utils/worker)", r"_try_get_data|_get_data|_next_data", Wait.CHILD),
        (r"torch/utils/data/_utils/worker\.py", r"_worker_loop", Wait.QUEUE),
        (
            (
                r"torch/distributed/(?:distributed_c10d|c10d_logger|rendezvous|utils"
                r"|collective_utils|_functional_collectives\w*|nn/functional"
                r"|elastic/utils/store|rpc/\w+)\.py"
            ),
            r".*",
            Wait.COLLECTIVE,
        ),
        (r"torch/nn/parallel/distributed\.py", r"__init__|_sync_.*|_verify.*", Wait.COLLECTIVE),
        (r"(?:horovod|deepspeed/comm|mpi4py|torch_xla/core)/", r".*", Wait.COLLECTIVE),
        (r"ray/util/collective/", r".*", Wait.COLLECTIVE),
        (r"jax/experimental/multihost_utils\.py", r".*", Wait.COLLECTIVE),
        (r"torch/(?:cuda|xpu|npu|mps)/", r"synchronize|wait", Wait.EVENT),
        (r"torch/autograd/graph\.py", r"_engine_run_backward", Wait.EVENT),
        (r"subprocess\.py", r".*", Wait.CHILD),
        (r"multiprocessing/popen_\w+\.py", r"poll|wait", Wait.CHILD),
        (r"multiprocessing/process\.py", r"join", Wait.CHILD),
        (r"multiprocessing/pool\.py", r"get|wait|map|apply|starmap|next|join", Wait.CHILD),
        (r"multiprocessing/pool\.py", r"worker", Wait.QUEUE),
        (r"concurrent/futures/process\.py", r"_process_worker", Wait.QUEUE),
        (r"concurrent/futures/(?:_base|thread)\.py", r"result|exception|wait|shutdown", Wait.EVENT),
        (r"concurrent/futures/thread\.py", r"_worker", Wait.QUEUE),
        (r"multiprocessing/(?:queues|managers)\.py", r".*", Wait.QUEUE),
        (r"queue\.py", r"get|put|join", Wait.QUEUE),
        (r"threading\.py", r"join|_wait_for_tstate_lock|_shutdown", Wait.THREAD),
        (r"threading\.py", r"wait|wait_for|_wait|_enter", Wait.EVENT),
        (r"threading\.py", r"acquire|__enter__", Wait.LOCK),
        (r"multiprocessing/synchronize\.py", r"__enter__|acquire", Wait.LOCK),
        (r"multiprocessing/synchronize\.py", r"wait|wait_for", Wait.EVENT),
        (r"asyncio/base_events\.py|uvloop/", r"_run_once|run_forever|run_until.*|run",
         Wait.EVENT_LOOP),
        (r"asyncio/(?:runners|unix_events)\.py", r"run.*", Wait.EVENT_LOOP),
        (r"multiprocessing/connection\.py", r".*", Wait.PIPE),
        (r"selectors\.py", r"select", Wait.POLL),
        (r"socketserver\.py|http/client\.py", r".*", Wait.NETWORK),
        (r"(?:socket|ssl)\.py", r".*", Wait.NETWORK),
        (r"(?:urllib3?|requests|http|httpcore|httpx|aiohttp|botocore)/", r".*", Wait.NETWORK),
        (r"torch/_ops\.py", r"__call__", None),
    )
)  # fmt: skip

_NATIVE_RULES: tuple[tuple[re.Pattern[str], Wait], ...] = tuple(
    (re.compile(words, re.IGNORECASE), wait)
    for words, wait in (
        (r"nccl|gloo|rccl|c10d|ompi_|MPI_|PMPI|ucp_|ucx|hccl", Wait.COLLECTIVE),
        (r"nanosleep|\busleep\b|pysleep|time_sleep", Wait.SLEEP),
        (r"waitpid|\bwait4\b|waitid", Wait.CHILD),
        (r"take_gil", Wait.GIL),
        (r"recv|accept|connect|sendmsg|sock_", Wait.NETWORK),
        (r"epoll|ppoll|\bpoll\b|select", Wait.POLL),
        (r"flock|fcntl", Wait.LOCK),
        (r"fsync|pread|pwrite|openat|\bopen(?:64)?\b|getdents|__xstat|fstat", Wait.STORAGE),
        (r"lock_wait|lll_lock|sem_.*wait|rwlock|lock_PyThread|acquire_timed", Wait.LOCK),
        (r"cond_(?:timed)?wait|futex", Wait.FUTEX),
        (r"sigwait|sigtimedwait|pause", Wait.SIGNAL),
    )
)  # fmt: skip

_CHANNELS: tuple[tuple[re.Pattern[str], Wait], ...] = tuple(
    (re.compile(words), wait)
    for words, wait in (
        (r"nanosleep", Wait.SLEEP),
        (r"futex", Wait.FUTEX),
        (r"^(?:do_wait|kernel_wait|wait_consider|do_waitid)", Wait.CHILD),
        (r"nfs|rpc_|fuse|ceph|lustre|cl_sync|gpfs|cifs|smb|9p|beegfs", Wait.STORAGE),
        (r"io_schedule|folio|wait_on_(?:page|bit|buffer)|jbd2|xfs_|ext4_", Wait.STORAGE),
        (r"btrfs|blk_|submit_bio|writeback|balance_dirty", Wait.STORAGE),
        (r"wait_for_partner|fifo_open", Wait.PIPE),
        (r"pipe", Wait.PIPE),
        (r"locks_lock|flock|fcntl|posix_lock", Wait.LOCK),
        (r"semtimedop|semop", Wait.LOCK),
        (r"epoll|ep_poll|poll_schedule|do_select|do_poll|do_sys_poll|io_cqring", Wait.POLL),
        (r"sk_|sock|tcp|udp|inet|unix_|skb|wait_woken|vsock|netlink", Wait.NETWORK),
        (r"sigsuspend|sigtimedwait|pause", Wait.SIGNAL),
        (r"n_tty|tty_", Wait.PIPE),
    )
)  # fmt: skip

# For kernels and containers that hide wchan. Numbers: asm/unistd_64.h and asm-generic/unistd.h.
_CALLS: dict[str, dict[str, Wait]] = {
    "x86_64": {
        **dict.fromkeys(("0", "17", "19"), Wait.PIPE),
        **dict.fromkeys(("7", "23", "232", "270", "271", "281", "441"), Wait.POLL),
        **dict.fromkeys(("35", "230"), Wait.SLEEP),
        **dict.fromkeys(("42", "43", "44", "45", "46", "47", "288", "299"), Wait.NETWORK),
        **dict.fromkeys(("61", "247"), Wait.CHILD),
        **dict.fromkeys(("72", "73", "65", "220"), Wait.LOCK),
        **dict.fromkeys(("74", "75", "2", "257", "18", "4", "5", "6", "262"), Wait.STORAGE),
        **dict.fromkeys(("34", "128", "130"), Wait.SIGNAL),
        "202": Wait.FUTEX,
    },
    "aarch64": {
        **dict.fromkeys(("63", "65"), Wait.PIPE),
        **dict.fromkeys(("22", "72", "73", "441"), Wait.POLL),
        **dict.fromkeys(("101", "115"), Wait.SLEEP),
        **dict.fromkeys(("202", "203", "206", "207", "211", "212", "242", "243"), Wait.NETWORK),
        **dict.fromkeys(("95", "260"), Wait.CHILD),
        **dict.fromkeys(("25", "32", "192", "193"), Wait.LOCK),
        **dict.fromkeys(("56", "67", "68", "79", "80", "82", "83"), Wait.STORAGE),
        **dict.fromkeys(("133", "137"), Wait.SIGNAL),
        "98": Wait.FUTEX,
    },
}


def names_collective(scope_id: str | None) -> bool:
    """Whether a scope is named like an operation in which ranks wait for each other."""
    return scope_id is not None and _SCOPE_WORDS.search(scope_id) is not None


def judge(
    frames: Sequence[Frame],
    facts: ProcessFacts,
    *,
    is_main: bool,
    active: bool,
    scope_id: str | None = None,
    machine: str = platform.machine(),
) -> Reason:
    """Tell what a thread waits for.

    :param frames: innermost first, those of its own process only.
    :param facts: of its process.
    :param is_main: whether it is the main thread, the one that most facts are about.
    :param active: whether it was on a CPU.
    :param scope_id: its timer.
    :param machine: whose system calls the facts speak of.
    """
    found = _by_python(frames)
    if found is not None and found.peers is Peers.CERTAIN:
        return found
    native = _by_native(frames)
    if native is Wait.COLLECTIVE:
        return Reason(native, Peers.CERTAIN, _native_operation(frames))
    running = active or (is_main and "running" in (facts.state, facts.system_call))
    # A C function that blocks with the GIL held counts as active for py-spy, but it sleeps.
    if running and not (is_main and facts.state in ("sleeping", "uninterruptible")):
        return Reason(Wait.COMPUTE)
    if found is None:
        found = Reason(native or _by_kernel(facts, is_main=is_main, machine=machine))
    if found.wait in _MAYBE:
        operation = _own_operation(frames)
        if operation is not None:
            return found._replace(peers=Peers.BY_NAME, operation=operation)
        if names_collective(scope_id):
            return found._replace(peers=Peers.BY_SCOPE, operation=scope_id or "")
    return found


def _own_operation(frames: Iterable[Frame]) -> str | None:
    """The collective that the job itself implements, when it waits in it or in a helper of it."""
    own = (plain_function(frame.function) for frame in frames if is_own(frame))
    return next((name for name in islice(own, NEAR) if _COLLECTIVE_WORDS.search(name)), None)


def _by_python(frames: Sequence[Frame]) -> Reason | None:
    python = [frame for frame in frames if is_python(frame.file)]
    found: Reason | None = None
    between_processes = False
    for index, frame in enumerate(python):
        path = library_path(frame.file)
        if path is None:
            break
        function = plain_function(frame.function)
        known, rule = _rule(path, function)
        if not known:
            break
        between_processes |= path == "multiprocessing/synchronize.py"
        if rule is None:
            continue
        found = Reason(rule, machinery=index + 1)
        if rule is Wait.COLLECTIVE:
            return _collective(python, index)
        if path == "threading.py" and function == "_wait" and between_processes:
            # threading.Barrier, whose subclass in multiprocessing waits for other processes.
            return Reason(Wait.COLLECTIVE, Peers.CERTAIN, "barrier", _run_of(python, index, path))
    return found


@lru_cache(4096)
def _rule(path: str, function: str) -> tuple[bool, Wait | None]:
    """Whether the frame is machinery of waiting, and what it means; None for nothing by itself."""
    for where, what, wait in _PYTHON_RULES:
        if where.match(path) and what.fullmatch(function):
            return True, wait
    return False, None


def _run_of(python: Sequence[Frame], index: int, path: str) -> int:
    while index < len(python) and library_path(python[index].file) == path:
        index += 1
    return index


def _collective(python: Sequence[Frame], index: int) -> Reason:
    """Name the outermost function of the collective library in this run of frames."""
    operation = ""
    end = index
    for end, frame in enumerate(python[index:], index):  # noqa: B007  # used after the loop
        path = library_path(frame.file)
        if path is None or _rule(path, plain_function(frame.function))[1] is not Wait.COLLECTIVE:
            break
        function = plain_function(frame.function)
        if function not in ("wrapper", "inner", "_fn"):
            operation = function
    else:
        end += 1
    if operation == "__init__":
        operation = "set-up of a distributed module"
    wait = Wait.POINT_TO_POINT if operation in _POINT_TO_POINT else Wait.COLLECTIVE
    return Reason(wait, Peers.CERTAIN, operation, end)


def _by_native(frames: Sequence[Frame]) -> Wait | None:
    for frame in frames:
        if is_python(frame.file):
            return None
        for words, wait in _NATIVE_RULES:
            if words.search(frame.function) or (
                wait is Wait.COLLECTIVE and words.search(frame.file.rsplit("/", 1)[-1])
            ):
                break
        else:
            continue
        if wait in (Wait.FUTEX, Wait.LOCK, Wait.POLL, Wait.NETWORK) and _collective_above(frames):
            return Wait.COLLECTIVE
        return wait
    return None


def _collective_above(frames: Sequence[Frame]) -> bool:
    words = _NATIVE_RULES[0][0]
    for frame in frames:
        if is_python(frame.file):
            return False
        if words.search(frame.function):
            return True
    return False


def _native_operation(frames: Sequence[Frame]) -> str:
    words = re.compile(r"all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|barrier|broadcast"
                       r"|bcast|send|recv", re.IGNORECASE)  # fmt: skip
    for frame in frames:
        if is_python(frame.file):
            break
        if found := words.search(frame.function):
            return found[0].lower()
    return ""


def _by_kernel(facts: ProcessFacts, *, is_main: bool, machine: str) -> Wait:
    if not is_main:
        return Wait.UNKNOWN
    if facts.wait_channel:
        for words, wait in _CHANNELS:
            if words.search(facts.wait_channel):
                return wait
    return _CALLS.get(machine, {}).get(facts.system_call or "", Wait.UNKNOWN)
