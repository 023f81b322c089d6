"""The tables by which a wait is recognised: library calls, C functions, kernel functions, calls."""

from __future__ import annotations

import enum
import re


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
    DEVICE = "waits for its GPU"
    ASKING = "asks again and again for something that does not come"
    COMPUTE = "runs"
    UNKNOWN = "waits"

    @property
    def may_be_for_peers(self) -> bool:
        """Whether somebody who only waits for another worker could look like this."""
        return self in MAYBE_FOR_PEERS or self.is_for_peers

    @property
    def is_for_peers(self) -> bool:
        """Whether it is an operation that ends when other workers join it."""
        return self in (Wait.COLLECTIVE, Wait.POINT_TO_POINT)

    @property
    def is_for_own_things(self) -> bool:
        """Whether it is for what each worker has of its own: storage, its child processes."""
        return self in (Wait.STORAGE, Wait.CHILD, Wait.THREAD)


MAYBE_FOR_PEERS = frozenset(
    {
        Wait.QUEUE,
        Wait.LOCK,
        Wait.EVENT,
        Wait.FUTEX,
        Wait.NETWORK,
        Wait.PIPE,
        Wait.POLL,
        Wait.EVENT_LOOP,
        Wait.DEVICE,
        Wait.ASKING,
        Wait.UNKNOWN,
    }
)


NEAR = 4
"""How many calls of the job's own may lie between a collective that it implements and the wait."""
COLLECTIVE_WORDS = re.compile(
    r"(?:^|_)(?:all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|barrier|rendezvous"
    r"|broadcast|bcast|(?:sync|wait_for)_(?:peers|all|everyone|ranks|workers))(?:_|$|\d)",
    re.IGNORECASE,
)
SCOPE_WORDS = re.compile(
    r"all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|barrier|rendezvous|collective|^MPI_",
    re.IGNORECASE,
)
POINT_TO_POINT = frozenset(
    {"send", "recv", "isend", "irecv", "sendrecv", "batch_isend_irecv", "send_object_list",
     "recv_object_list"}
)  # fmt: skip

# Library path, function, what it means. In a run of such frames the outermost decides.
PYTHON_RULES: tuple[tuple[re.Pattern[str], re.Pattern[str], Wait | None], ...] = tuple(
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
        (r"ray/_private/worker\.py", r"main_loop", Wait.QUEUE),
        (r"ray/_private/worker\.py", r"get|get_objects|wait", Wait.EVENT),
        (r"ray/_private/(?:auto_init_hook|client_mode_hook)\.py", r"\w*wrapper", None),
        (
            r"ray/train/",
            r"report|_sync_checkpoint_dir_name_across_ranks|broadcast_from_rank_zero|\w*barrier\w*",
            Wait.COLLECTIVE,
        ),
        (r"jax/experimental/multihost_utils\.py", r".*", Wait.COLLECTIVE),
        (r"torch/(?:cuda|xpu|npu|mps)/", r"synchronize|wait", Wait.DEVICE),
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

NATIVE_RULES: tuple[tuple[re.Pattern[str], Wait], ...] = tuple(
    (re.compile(words, re.IGNORECASE), wait)
    for words, wait in (
        (r"nccl|gloo|rccl|c10d|ompi_|MPI_|PMPI|ucp_|ucx|hccl", Wait.COLLECTIVE),
        (r"(?:cu|cuda|hip)(?:(?:Stream|Event|Device|Ctx)\w*Synchronize|Memcpy)", Wait.DEVICE),
        (r"_local_scalar_dense_(?:cuda|hip)", Wait.DEVICE),
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

CHANNELS: tuple[tuple[re.Pattern[str], Wait], ...] = tuple(
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
CALLS: dict[str, dict[str, Wait]] = {
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


LOCAL_WORK = frozenset({"_object_to_tensor", "_tensor_to_object"})
"""Functions of torch.distributed that pickle and copy: who is in one has not joined yet."""
MPI_CALLS = re.compile(
    r"\.(I?(?:[Aa]ll(?:reduce|gatherv?|toallv?)|[Bb]arrier|[Bb]cast|[Rr]educe(?:_scatter)?"
    r"|[Gg]atherv?|[Ss]catterv?|[Ww]ait(?:all|any)?|[Ss]?[Ss]end(?:recv)?|[Rr]ecv|[Pp]robe))\("
)
"""Calls of mpi4py, in the text of a line."""


OPERATION_WORDS = re.compile(
    r"all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|barrier|broadcast|bcast|send|recv",
    re.IGNORECASE,
)
"""What the C function of a collective library is named after."""
