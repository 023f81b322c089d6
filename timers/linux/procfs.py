"""What Linux says about another process, read from ``/proc`` with the standard library alone.

Every function returns ``None`` (or an empty value) when the process is gone, hidden (``hidepid``)
or not ours to read: a watchdog asks about processes that die at any moment, so "unknown" is an
ordinary answer here and never an exception. Field numbers and formats are those of proc(5).

Reading takes a descriptor. Where this process has none left, one is lent by a
:class:`~timers.linux.descriptors.Reserve`: a watchdog must not take a worker for gone because it
cannot read.

Safe from any thread, before and after fork: nothing is cached.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .descriptors import with_reserve

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "TICKS_PER_SECOND",
    "ProcessFacts",
    "Stat",
    "ancestors",
    "children",
    "clock_skew",
    "command",
    "environment",
    "exit_status",
    "facts",
    "io_bytes",
    "is_python",
    "owners",
    "page_faults",
    "start_time",
    "stat",
    "system_call",
    "thread_cpu_seconds",
    "thread_names",
    "thread_states",
    "threads",
    "voluntary_switches",
]

_NS = 1_000_000_000
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_READ_BYTES = 1 << 16
_MOST_WALKS = 20
_MOST_BYTES = 6 << 20
"""Of one file; the kernel gives no program more arguments and environment (execve(2)). But a
process can declare any part of its memory to be its environment (prctl(2), PR_SET_MM)."""
_Answer = TypeVar("_Answer")

_STATE_NAMES = {
    "R": "running",
    "S": "sleeping",
    "D": "uninterruptible",
    "T": "stopped",
    "t": "traced",
    "Z": "zombie",
    "X": "dead",
    "I": "idle",
}


class Stat(NamedTuple):
    """The fields of ``/proc/PID/stat`` that this package uses."""

    state: str
    """One letter, as in proc(5): R, S, D, T, t, Z, X, I."""
    parent: int
    session: int
    """Id of its session: the pid of who began that (setsid(2))."""
    start_time: int
    """Clock ticks after boot at which the process began: with the pid, its identity."""
    cpu_seconds: float
    """User plus system time of all its threads."""
    threads: int
    resident_bytes: int


class ProcessFacts(NamedTuple):
    """What the kernel knows about a process at one moment; ``None`` where it did not say."""

    state: str | None = None
    """In words: ``sleeping``, ``running``, ``uninterruptible``, ``stopped``, ``zombie``..."""
    wait_channel: str | None = None
    """The kernel function its main thread sleeps in (``/proc/PID/wchan``)."""
    system_call: str | None = None
    """Number of the system call its main thread is in, or ``running`` (``/proc/PID/syscall``)."""
    cpu_seconds: float | None = None
    resident_bytes: int | None = None
    threads: int | None = None
    open_files: int | None = None
    open_paths: tuple[str, ...] = ()
    """Regular files it has open; left empty here, filled by who has the means to."""
    connections: tuple[str, ...] = ()
    """Peers of its sockets, as ``host:port STATUS`` or a path; left empty here likewise."""


def _ask(question: Callable[[str], _Answer], path: str) -> _Answer | None:
    """Return ``question(path)``, which takes a descriptor; None when the kernel refuses."""
    try:
        return with_reserve(lambda: question(path))
    except OSError:
        return None


def _contents(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        left = _MOST_BYTES
        while left > 0 and (chunk := os.read(fd, min(left, _READ_BYTES))):
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


def _read(pid: int | str, name: str) -> str | None:
    data = _ask(_contents, f"/proc/{pid}/{name}")
    return None if data is None else data.decode("utf-8", "surrogateescape")


def _stat_fields(pid: int, name: str = "stat") -> list[str]:
    """Read the fields of a ``stat`` file from the state on; empty when there is none."""
    # The command name may hold spaces and parentheses; what follows its last ")" may not.
    return (_read(pid, name) or "").rpartition(")")[2].split()


def stat(pid: int) -> Stat | None:
    """Read ``/proc/PID/stat``; None when there is no such process."""
    fields = _stat_fields(pid)
    return _stat(fields) if fields else None


def _stat(fields: list[str]) -> Stat:
    return Stat(
        state=fields[0],
        parent=int(fields[1]),
        session=int(fields[3]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND,
        threads=int(fields[17]),
        start_time=int(fields[19]),
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def start_time(pid: int) -> int | None:
    """Read the clock ticks after boot at which ``pid`` began; None when it is gone."""
    found = stat(pid)
    return None if found is None else found.start_time


def exit_status(pid: int, start_time: int) -> int | None:
    """Read how a zombie ended, as wait(2) encodes it; None for others, or when that is hidden.

    :param start_time: of the process that is meant.
    """
    fields = _stat_fields(pid)
    if not fields or fields[0] not in "ZX" or _stat(fields).start_time != start_time:
        return None
    status = int(fields[49])
    # The kernel shows 0 to those who may not know (ptrace(2), PTRACE_MODE_READ_FSCREDS).
    return status if status != 0 or _is_ours(pid) else None


def _is_ours(pid: int) -> bool:
    try:
        found = os.stat(f"/proc/{pid}")
    except OSError:
        return False
    return os.geteuid() == 0 or (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())


def clock_skew(pid: int) -> tuple[int, int] | None:
    """Read by how much the clocks of ``pid`` are ahead of this process's, in nanoseconds.

    CLOCK_MONOTONIC and CLOCK_BOOTTIME (which start times are counted by) differ between time
    namespaces (time_namespaces(7): containers, restored processes). None when the namespaces are
    different, or may not be read, and nothing says by how much.
    """
    own, its = _time_namespace("self"), _time_namespace(pid)
    if own is None or own == its:
        return 0, 0  # Linux before 5.6 has but one
    offsets = []
    for process in (pid, "self"):
        # The file has the offsets of the namespace that children will be in.
        if its is None or _time_namespace(process) != _time_namespace(process, "time_for_children"):
            return None
        words = [line.split() for line in (_read(process, "timens_offsets") or "").splitlines()]
        found = {name: int(seconds) * _NS + int(rest) for name, seconds, rest in words}
        if not {"monotonic", "boottime"} <= set(found):
            return None
        offsets.append(found)
    its_own, ours = offsets
    return its_own["monotonic"] - ours["monotonic"], its_own["boottime"] - ours["boottime"]


def _time_namespace(pid: int | str, name: str = "time") -> tuple[int, int] | None:
    try:
        found = os.stat(f"/proc/{pid}/ns/{name}")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def thread_cpu_seconds(pid: int, thread: int) -> float | None:
    """Read the user plus system time of one thread of ``pid``; None when it is gone."""
    fields = _stat_fields(pid, f"task/{thread}/stat")
    return _stat(fields).cpu_seconds if fields else None


def page_faults(pid: int, thread: int) -> int | None:
    """Count the pages that one thread of ``pid`` was first to touch; None when it is gone.

    Minor faults (proc(5), ``minflt``): memory that grows, or is given back and taken again.
    """
    fields = _stat_fields(pid, f"task/{thread}/stat")
    return int(fields[7]) if fields else None


def voluntary_switches(pid: int, thread: int) -> int | None:
    """Count how often one thread of ``pid`` has gone to sleep; None when it is gone."""
    words = _status(pid, "voluntary_ctxt_switches", f"task/{thread}/status")
    return int(words[0]) if words else None


def io_bytes(pid: int) -> int | None:
    """Count the bytes that ``pid`` read and wrote, by system calls and to storage; else None.

    The kernel shows them to those who may trace the process (proc(5), ``/proc/PID/io``). What goes
    through send(2) and recv(2) is not among them.
    """
    wanted = ("rchar", "wchar", "read_bytes", "write_bytes")
    pairs = (line.split(": ") for line in (_read(pid, "io") or "").splitlines())
    found = [int(pair[1]) for pair in pairs if pair[0] in wanted]
    return sum(found) if found else None


def _status(pid: int, field: str, name: str = "status") -> list[str]:
    """Read the words of one field of a ``status`` file; empty when there is none."""
    for line in (_read(pid, name) or "").splitlines():
        label, _, value = line.partition(":")
        if label == field:
            return value.split()
    return []


def owners(pid: int) -> frozenset[int] | None:
    """Read the user ids ``pid`` runs under: real, effective and saved, or None when unknown."""
    words = _status(pid, "Uid")
    return frozenset(int(word) for word in words[:3]) if words else None


def ancestors(pid: int) -> list[int]:
    """List the parent of ``pid``, its parent, and so on up to (not including) pid 0.

    It ends with one that cannot be read where /proc is hidden.
    """
    chain = _parents(pid)
    for _ in range(_MOST_WALKS):
        # One that exits while the others are read leaves its children to another parent, and its
        # pid to anybody.
        before, chain = chain, _parents(pid)
        if chain == before:
            break
    return chain


def _parents(pid: int) -> list[int]:
    chain: list[int] = []
    found = stat(pid)
    while found is not None and found.parent > 0 and found.parent not in chain:
        chain.append(found.parent)
        found = stat(found.parent)
    return chain


def children(pid: int) -> list[int]:
    """List the direct children of ``pid``, whichever of its threads started them."""
    found: list[int] = []
    for thread in _entries(f"/proc/{pid}/task"):
        text = _read(pid, f"task/{thread}/children")
        if text is None and not os.path.exists(f"/proc/{pid}/task/{thread}/children"):
            return _children_by_scan(pid)
        found.extend(int(word) for word in (text or "").split())
    return found


def _children_by_scan(pid: int) -> list[int]:
    # Kernels without CONFIG_PROC_CHILDREN have no "children" file.
    return [
        int(entry)
        for entry in _entries("/proc")
        if entry.isdigit() and (found := stat(int(entry))) is not None and found.parent == pid
    ]


def environment(pid: int) -> dict[str, str]:
    """Read the environment ``pid`` was started with, not what it changed; empty if unreadable."""
    pairs = (entry.partition("=") for entry in (_read(pid, "environ") or "").split("\0") if entry)
    return {name: value for name, _, value in pairs}


def command(pid: int) -> list[str]:
    """Read the program and the arguments ``pid`` was started with; empty if unreadable."""
    text = _read(pid, "cmdline")
    return text.removesuffix("\0").split("\0") if text else []


def is_python(pid: int) -> bool:
    """Whether the program that ``pid`` runs is a Python; False when that may not be read.

    The right to trace is needed (proc(5), ``/proc/PID/exe``).
    """
    return "python" in os.path.basename(_ask(os.readlink, f"/proc/{pid}/exe") or "")


def system_call(pid: int, thread: int) -> list[str]:
    """Read the number and arguments of the system call that one thread of ``pid`` is in.

    Empty when it is in none, or may not be looked at: the right to trace is needed (proc(5),
    ``/proc/PID/task/TID/syscall``).
    """
    words = (_read(pid, f"task/{thread}/syscall") or "").split()
    return words if words and words[0].isdigit() else []


def threads(pid: int) -> list[int]:
    """List the native ids of the threads of ``pid``; empty when it is gone."""
    return [int(name) for name in _entries(f"/proc/{pid}/task")]


def thread_names(pid: int) -> dict[int, str]:
    """Read the kernel's name for each thread of ``pid``, by native thread id.

    At most 15 bytes each (prctl(2), PR_SET_NAME); bytes that are not UTF-8 are replaced.
    """
    texts = {thread: _read(pid, f"task/{thread}/comm") for thread in threads(pid)}
    return {
        thread: text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()
        for thread, text in texts.items()
        if text is not None
    }


def thread_states(pid: int) -> dict[int, str]:
    """Read the state of each thread of ``pid``, by native id: one letter, as in :class:`Stat`."""
    found = {thread: _stat_fields(pid, f"task/{thread}/stat") for thread in threads(pid)}
    return {thread: fields[0] for thread, fields in found.items() if fields}


def facts(pid: int) -> ProcessFacts:
    """Read the facts about ``pid`` now; everything is None when it is gone.

    ``wchan``, ``syscall`` and ``fd`` need the right to trace the process (ptrace(2), "Ptrace
    access mode checking"): same user or root.
    """
    found = stat(pid)
    if found is None:
        return ProcessFacts()
    wait_channel = _read(pid, "wchan")
    system_call = _read(pid, "syscall")
    descriptors = _entries(f"/proc/{pid}/fd")
    return ProcessFacts(
        state=_STATE_NAMES.get(found.state, found.state),
        wait_channel=None if wait_channel in (None, "", "0") else wait_channel,
        system_call=system_call.split()[0] if system_call and system_call.strip() else None,
        cpu_seconds=found.cpu_seconds,
        resident_bytes=found.resident_bytes,
        threads=found.threads,
        open_files=len(descriptors) or None,
    )


def _entries(path: str) -> list[str]:
    return _ask(os.listdir, path) or []
