"""A /proc that shows less (proc(5), hidepid)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from support.children import OTHER_UID

from .fault import Fault, Weaker
from .machine import as_nobody, mount_reason, other_user_reason, run_as_nobody
from .promises import EXPLAINED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .observation import Observation
    from .stage import Stage

__all__ = ["FAULTS"]

HIDDEN = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'


class HiddenProc(Fault):
    """The service and its workers are of one user, who sees no process of anybody else."""

    name = "/proc hides other users' processes (hidepid=2)"

    def unavailable(self) -> str | None:
        return mount_reason() or other_user_reason()

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.wrapper = ["unshare", "--mount", "sh", "-c", HIDDEN, "sh"]
        run_as_nobody(stage)
        yield


class NoRightToTrace(Fault):
    """The service is root without CAP_SYS_PTRACE, as in most containers; the workers are not."""

    name = "no right to trace the workers (CAP_SYS_PTRACE)"
    transports = ("socket", "socket")  # the pipe is the service's user's alone

    def unavailable(self) -> str | None:
        return other_user_reason()

    def __init__(self) -> None:
        self.weaker = {EXPLAINED: Weaker("facts and the reason, no stack", self._explained)}

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.wrapper = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
        stage.worker_wrapper = as_nobody()
        stage.arguments += ["--allow-user", str(OTHER_UID)]
        yield

    def _explained(self, seen: Observation) -> None:
        for worker in (seen.first, seen.second):
            [dump] = seen.named("stack dumped", worker.pid)
            assert (dump["stack_method"], dump["process_state"]) == ("proc", "sleeping")
            assert "CAP_SYS_PTRACE" in dump["stack_error"]


FAULTS: list[Fault] = [HiddenProc(), NoRightToTrace()]
