"""What it takes to read another process's stack, in words."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from timers.linux import procfs
from timers.linux.process import exists

__all__ = ["tracing_advice", "why_unreadable"]

_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


def tracing_advice() -> str:
    """Return what to change so that this user may trace its processes."""
    advice = "let this user trace its processes: in a container --cap-add SYS_PTRACE"
    try:
        scope = _YAMA.read_text(encoding="ascii").strip()
    except OSError:
        return advice
    if scope == "0" or os.geteuid() == 0:
        return advice
    return f"{advice}; here kernel.yama.ptrace_scope is {scope}: sysctl kernel.yama.ptrace_scope=0"


def why_unreadable(pid: int) -> str | None:
    """Return why ``pid`` cannot be explained from here, and what to do; None when it can be.

    Only what is certain beforehand: that there is no such process, or that it is another user's.
    """
    owners = procfs.owners(pid)
    if owners is None:
        if exists(pid):
            return f"process {pid} is hidden from this user (hidepid): run this as its user or root"
        return f"there is no process {pid} here{_other_namespace()}"
    if os.geteuid() in (0, *owners):
        return None
    return f"process {pid} belongs to {_names(owners)}: run this as that user, or as root"


def _other_namespace() -> str:
    """Return words about containers, where this process sees only the pids of its own."""
    try:
        inside = os.stat("/proc/self/ns/pid").st_ino != os.stat("/proc/1/ns/pid").st_ino
    except OSError:
        inside = os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv")
    if not inside and not os.path.exists("/.dockerenv"):
        return "; of a process in a container, give the pid that it has on the host"
    return ": inside a container only its own processes are seen, by the pids they have in there"


def _names(owners: frozenset[int]) -> str:
    names = []
    for uid in sorted(owners):
        try:
            names.append(pwd.getpwuid(uid).pw_name)
        except KeyError:
            names.append(f"user {uid}")
    return " and ".join(names)
