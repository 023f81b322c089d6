"""A roll call over thousands of hosts through one real TCPStore: how long, how much, at what cost.

Each simulated host has its own connection to the store and waits there as a watchdog does; its
eight ranks are the same few stacks, as in a job that hangs. One host is real: the one that calls,
with its helper process. All of it shares this machine, so that the time is an upper bound.

For each connection both ends of a TCPStore ask the resolver for the other's name. One that has to
ask a slow server for 127.0.0.1 makes the preparation, which is not measured, take minutes or longer
("unshare --mount", and an /etc/nsswitch.conf with "hosts: files", spares that).

``python -m tests.benchmarks.fleet [HOSTS]``, from the top of the tree; it needs PyTorch.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import multiprocessing
import os
import resource
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil

from observability.fleet import _c10d
from observability.fleet._c10d import C10dStore
from observability.fleet._messages import Presence, packed
from observability.fleet._store import Store
from observability.fleet._summary import to_text
from observability.fleet.exchange import Exchange
from observability.recorder.types import GroupRecord, Operation, Progress, Recording
from observability.samples.types import Sample, WorkerView
from timers.events import WorkerInfo
from timers.linux.procfs import ProcessFacts
from timers.stacks.dump import Frame, StackDump, ThreadStack

from .machine import description

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["measure"]

HOSTS = 2000
PER_HOST = 8
STUCK = 77
LONG = 300.0
MIB = 1 << 20
CROWDS = 2
SPAWN = multiprocessing.get_context("spawn")
_TORCH = "/opt/venv/lib/python3.12/site-packages/torch/distributed"
_OUTER = (
    Frame("train_step", "/job/train.py", 212),
    Frame("main", "/job/train.py", 340),
    Frame("<module>", "/job/train.py", 352),
)
_WAITING = (Frame("all_reduce", f"{_TORCH}/distributed_c10d.py", 2810), *_OUTER)
_FETCHING = (Frame("fetch_shard", "/job/data.py", 88), *_OUTER)
_NEXT = Operation(number=26, name="all_reduce", sizes=((68_362,),), dtype="Float")
_DONE = replace(_NEXT, number=25, progress=Progress.COMPLETED)


def _rank(rank: int, size: int) -> WorkerView:
    stuck = rank == STUCK
    calls = (_DONE,) if stuck else (_DONE, _NEXT)
    group = GroupRecord(
        "default_pg", "nccl", ranks=tuple(range(size)), collectives=calls, last=calls[-1].number
    )
    thread = ThreadStack(frames=_FETCHING if stuck else _WAITING, thread=1000, name="MainThread")
    dump = StackDump(
        pid=1000,
        method="py-spy",
        threads=(thread,),
        facts=ProcessFacts(state="sleeping", wait_channel="futex_do_wait", cpu_seconds=2.0),
    )
    return WorkerView(
        worker=WorkerInfo(pid=1000 + rank, rank=rank, local_rank=rank % PER_HOST),
        host=f"node{rank // PER_HOST}",
        samples=tuple(
            Sample(dump=replace(dump, pid=1000 + rank), at_seconds=at) for at in (0.0, 1.0)
        ),
        scope_id="step",
        expired=not stuck,
        recording=Recording(groups=(group,)),
    )


def _views(host: int, size: int) -> list[WorkerView]:
    return [_rank(host * PER_HOST + local, size) for local in range(PER_HOST)]


# -- the other processes -------------------------------------------------------------------------


def _allow_descriptors() -> None:
    """Have a connection for each host, as the store of a job of that size must have, too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _serve(connection: Any) -> None:
    _allow_descriptors()
    distributed: Any = importlib.import_module("torch.distributed")
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    connection.send(store.port)
    connection.recv()


class _Direct(Store):
    """The store as the helper uses it, without the pipe between: for thousands in one process."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def _call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._connection, method)(*arguments)

    def wait(self, keys: Sequence[str], seconds: float) -> Future[bool]:
        future: Future[bool] = Future()
        future.set_result(self._connection.wait(list(keys), seconds))
        return future


def _helper() -> Any:
    spec = importlib.util.spec_from_file_location("_c10d_helper", _c10d._HELPER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _handed_over(host: int, size: int) -> dict[str, Any]:
    who = Presence(host="", watchdog="", ranks=())
    plain: dict[str, Any] = json.loads(to_text(who, _views(host, size), size))
    return plain


def _of_host(plain: dict[str, Any], host: int) -> tuple[Presence, str]:
    """Make the part of a host of that of another one; to write each would take minutes."""
    first = host * PER_HOST
    who = Presence(
        host=f"node{host}", watchdog=f"w{host}", ranks=tuple(range(first, first + PER_HOST))
    )
    members = [
        {**each, "rank": first + local, "pid": 1000 + first + local}
        for local, each in enumerate(plain["members"])
    ]
    return who, packed({**plain, **who.to_plain(), "members": members})


def _crowd(connection: Any, port: int, hosts: range, size: int) -> None:
    _allow_descriptors()
    threading.stack_size(256 << 10)
    helper = _helper()
    importlib.import_module("torch.distributed")  # by one thread, before a thousand want it
    ready = threading.Barrier(len(hosts) + 1)
    done: list[float] = []
    # Each has a machine of its own for that; a thousand at once would only wake each other.
    reading = threading.Lock()
    like = {stuck: _handed_over(STUCK // PER_HOST if stuck else 0, size) for stuck in (True, False)}
    texts = {host: _of_host(like[host == STUCK // PER_HOST], host) for host in hosts}

    # One after the other: what a job's hosts do within minutes, this process would do at once.
    connections = {host: helper.Connection("127.0.0.1", port, LONG) for host in hosts}

    def live(host: int) -> None:
        who, text = texts[host]
        store = _Direct(connections[host])
        exchange = Exchange(store, host=who.host, ranks=who.ranks, watchdog=who.watchdog)
        exchange.join()
        ready.wait()
        exchange.wait_for_call(LONG).result()
        call = exchange.take_call()
        assert call is not None
        # Written beforehand: elsewhere each host writes its own.
        place = store.add(f"given/{call.number}", 1)
        store.set(f"part/{call.number}/{place}", text)
        key = f"report/{call.number}"
        assert store.wait([key], LONG).result()
        with reading:
            shared = exchange._read(call, store.get([key])[0] or "")
        assert shared.report.suspects[0].rank == STUCK
        done.append(time.monotonic())

    threads = [threading.Thread(target=live, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    ready.wait()
    connection.send(sum(len(text) for _, text in texts.values()))
    for thread in threads:
        thread.join()
    connection.send(max(done))


def _cpu(processes: Mapping[str, Sequence[psutil.Process]]) -> dict[str, float]:
    return {
        name: sum(sum(each.cpu_times()[:2]) for each in some) for name, some in processes.items()
    }


# -- what is measured ----------------------------------------------------------------------------


def measure(hosts: int) -> dict[str, float]:
    """Call the roll of so many hosts once; return seconds, bytes and so on by name."""
    size = hosts * PER_HOST
    ours, theirs = SPAWN.Pipe()
    server = SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    port = ours.recv()
    crowds, ends = [], []
    share = (hosts - 1) // CROWDS
    for number in range(CROWDS):
        first = 1 + number * share
        last = hosts if number == CROWDS - 1 else first + share
        end, other = SPAWN.Pipe()
        crowd = SPAWN.Process(target=_crowd, args=(other, port, range(first, last), size))
        crowd.start()
        crowds.append(crowd)
        ends.append(end)
    store = C10dStore(sys.executable, os.environ, ("127.0.0.1", port), seconds=LONG)
    exchange = Exchange(store, host="node0", ranks=range(PER_HOST))
    exchange.join()
    sent = sum(end.recv() for end in ends)
    views = _views(0, size)
    time.sleep(1.0)  # those that have said so wait at the store a moment later
    others = {
        "store": [psutil.Process(server.pid)],
        "helper": [psutil.Process(store.pid)],
        "simulation": [psutil.Process(crowd.pid) for crowd in crowds],
    }
    before = _cpu(others)
    began, cpu = time.monotonic(), time.process_time()
    call = exchange.announce(LONG)
    assert call is not None
    shared = exchange.share(call, views, size, collect_until=began + LONG, until=began + LONG)
    called, cpu = time.monotonic(), time.process_time() - cpu
    used = {name: after - before[name] for name, after in _cpu(others).items()}
    while exchange.tidy():
        pass
    tidied = time.monotonic()
    assert shared is not None
    assert [suspect.rank for suspect in shared.report.suspects] == [STUCK]
    last = max(end.recv() for end in ends)
    found = {
        "report": called - began,
        "everywhere": last - began,
        "bytes": sent / (hosts - 1),
        "tidied": tidied - called,
        "cpu": cpu,
        **{f"{name}_cpu": seconds for name, seconds in used.items()},
        "store_cpu_in_all": _cpu(others)["store"] - before["store"],
        "store_memory": others["store"][0].memory_info().rss,
        "helper_memory": others["helper"][0].memory_info().rss,
    }
    store.close()
    ours.send(None)
    for each in (server, *crowds):
        each.join()
    return found


def main() -> None:
    """Measure, and print a line for each figure."""
    hosts = int(sys.argv[1]) if len(sys.argv) > 1 else HOSTS
    found = measure(hosts)
    print(description())
    print(f"{hosts:,} hosts, {hosts * PER_HOST:,} ranks")
    print(f"from the call to the report where it was made  {found['report']:8.2f} s")
    print(f"... in CPU time of that host                   {found['cpu']:8.2f} s")
    print(f"... of its helper                              {found['helper_cpu']:8.2f} s")
    print(f"... of the store's process                     {found['store_cpu']:8.2f} s")
    print(f"... of all others, which are simulated here    {found['simulation_cpu']:8.2f} s")
    print(f"until the last host has it                     {found['everywhere']:8.2f} s")
    print(f"until the parts are removed, beside that       {found['tidied']:8.2f} s")
    print(f"a host hands over                              {found['bytes']:8.0f} bytes")
    print(f"CPU of the store's process, in all             {found['store_cpu_in_all']:8.2f} s")
    print(f"memory of the store's process                  {found['store_memory'] / MIB:8.0f} MiB")
    print(f"memory of the helper                           {found['helper_memory'] / MIB:8.0f} MiB")


if __name__ == "__main__":
    main()
