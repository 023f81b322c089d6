"""Let a server read this process's stack where the kernel would refuse it.

With ``kernel.yama.ptrace_scope`` at 1, the default of Ubuntu, a process may be inspected only by
its ancestors, and the tool that takes the stack is a child of the server. A process may name one
more (prctl(2), PR_SET_PTRACER), whose descendants are included.
"""

from __future__ import annotations

__all__ = ["allow_dumps_by"]

_PR_SET_PTRACER = 0x59616D61  # "Yama", linux/prctl.h
_SCOPE_FILE = "/proc/sys/kernel/yama/ptrace_scope"


def allow_dumps_by(pid: int) -> bool:
    """Allow ``pid`` and its descendants to inspect this process; False where nothing was changed.

    For this process alone: a forked child has to call it again. Without Yama, or with a scope
    other than 1, there is nothing to allow or nothing that would help.
    """
    try:
        with open(_SCOPE_FILE, encoding="ascii") as file:
            if file.read().strip() != "1":
                return False
    except OSError:
        return False
    import ctypes  # noqa: PLC0415  # only where it is needed: it is slow to import

    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_PTRACER, pid, 0, 0, 0) == 0)
