"""Workers that turn into something else: other programs, daemons, many."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from support.processes import VICTIMS
from timers.linux import procfs

from .fault import Fault, Weaker
from .observation import WorkerSeen
from .promises import EXPLAINED, TOLD
from .stage import BOUND_SECONDS, WORKER_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.remote import Remote

    from .observation import Observation
    from .stage import Stage

__all__ = ["FAULTS"]

_DEPTH = 7
_BOMB = 2 ** (_DEPTH + 1) - 2
"""So many processes come of it, as :meth:`victims.worker.Worker.bomb` says."""
_PR_SET_CHILD_SUBREAPER = 36


def _frame(worker: Remote) -> str:
    return f"{WORKER_FILE}:{worker.hello['stuck_line']} stuck_here"


class Execs(Fault):
    """In its block it becomes another program, which leaves no block."""

    name = "the worker execs another program"

    def __init__(self) -> None:
        self.weaker = {EXPLAINED: Weaker("which process it is, no stack", self._explained)}

    def first(self, stage: Stage) -> WorkerSeen:
        worker = stage.worker()
        worker.do("enter", "stuck", 1.0)
        worker.tell("become", "sleep", "1000")
        return WorkerSeen(pid=worker.pid, code=stage.ended(worker.pid))

    def _explained(self, seen: Observation) -> None:
        [dump] = seen.named("stack dumped", seen.first.pid)
        assert "stack" not in dump
        assert dump["stack_error"]
        assert dump["process_state"] == "sleeping"
        [dump] = seen.named("stack dumped", seen.second.pid)
        assert dump["frame"] == seen.second.frame


class ClosesDescriptors(Fault):
    """All of them, those of its timer client included, in a block, and then enters another."""

    name = "the worker closes all its descriptors"

    def first(self, stage: Stage) -> WorkerSeen:
        return self._stuck(stage, socket=True)

    def second(self, stage: Stage) -> WorkerSeen:
        return self._stuck(stage, socket=False)

    def _stuck(self, stage: Stage, *, socket: bool) -> WorkerSeen:
        worker = stage.worker(socket=socket)
        worker.do("enter", "open", 3600)
        stage.wait(lambda: "open" in (stage.open_scopes() or []))
        worker.tell("stuck_without_descriptors", "stuck", 0.2)
        return WorkerSeen(pid=worker.pid, frame=_frame(worker), code=stage.ended(worker.pid))


class Daemonizes(Fault):
    """It forks in a block and exits; its child, an orphan, enters one of its own."""

    name = "the worker forks and exits (a daemon)"

    def first(self, stage: Stage) -> WorkerSeen:
        worker = stage.worker()
        worker.do("enter", "left open", 3600)
        with _adopting():
            worker.do("fork")
            daemon = stage._listener.accept()
            stage._ends.callback(daemon.close)
            worker.tell("exit")
            stage.seen.notes["parent"] = (worker.pid, stage.ended(worker.pid))
            daemon.tell("stuck", "stuck", 0.2)
            gone = daemon.gone(BOUND_SECONDS)
            if not gone:
                daemon.close()
            code = os.waitstatus_to_exitcode(os.waitpid(daemon.pid, 0)[1])
        return WorkerSeen(pid=daemon.pid, frame=_frame(worker), code=code if gone else None)

    def __init__(self) -> None:
        self.weaker = {TOLD: Weaker("yes, and what it left open", self._told)}

    def _told(self, seen: Observation) -> None:
        TOLD.check(seen)
        pid, code = seen.notes["parent"]
        [exited] = seen.named("worker exited", pid)
        assert (exited["level"], exited["exit_code"], code) == ("warning", 0, 0)
        assert (exited["scope_id"], exited["timers_open"]) == ("left open", 1)


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Orphans become children of this process meanwhile: their exit codes can be had."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class Bombs(Fault):
    """One thread is stuck while another forks, and what it forks forks again."""

    name = f"the worker is a fork bomb of {_BOMB} (with --kill-tree)"

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.arguments = ["--kill-tree"]
        yield

    def __init__(self) -> None:
        self.weaker = {TOLD: Weaker("yes, with all that were killed", self._told)}

    def first(self, stage: Stage) -> WorkerSeen:
        worker = stage.worker()
        worker.tell("stuck", "stuck", 1.5, thread="other")
        stage.wait(lambda: "stuck" in (stage.open_scopes() or []))
        worker.tell("bomb", _DEPTH)
        return WorkerSeen(pid=worker.pid, frame=_frame(worker), code=stage.ended(worker.pid))

    def _told(self, seen: Observation) -> None:
        TOLD.check(seen)
        [kill] = seen.named("kill worker process", seen.first.pid)
        assert 0 < len(kill["descendants"]) <= _BOMB


class Namespaced(Fault):
    """For itself it is process 1, which a message may not name; over the socket it need not."""

    name = "the workers are in pid namespaces of their own (socket)"

    def unavailable(self) -> str | None:
        if shutil.which("unshare") is None:
            return "unshare(1) is not installed"
        probe = [*_unshare(), "true"]
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else f"no pid namespace: {done.stderr.strip()}"

    def first(self, stage: Stage) -> WorkerSeen:
        return self._stuck(stage)

    def second(self, stage: Stage) -> WorkerSeen:
        return self._stuck(stage)

    def _stuck(self, stage: Stage) -> WorkerSeen:
        worker = stage.worker(wrapper=_unshare())
        assert worker.pid == 1, "it is not in a namespace of its own"
        outside = stage._workers[worker.pid].pid
        [pid] = procfs.children(outside)
        worker.tell("stuck", "stuck", 0.2)
        return WorkerSeen(pid=pid, frame=_frame(worker), code=stage.ended(worker.pid))


def _unshare() -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    namespaced = [sys.executable, str(VICTIMS / "namespaced.py")]
    return ["unshare", *user, "--pid", "--mount", *namespaced]


FAULTS = [Execs(), ClosesDescriptors(), Daemonizes(), Bombs(), Namespaced()]
