"""The scenario that all faults share.

A service serves a bystander, who is in a block of its own. A worker gets stuck and is reaped, then
another one does. The bystander leaves its block and enters some more. The account is taken, and the
service is asked to end. Nothing here fails: what did not come within its bound is not in the
observation, and the promise that needed it is seen to be broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .observation import Observation, WorkerSeen
from .stage import WORKER_FILE

if TYPE_CHECKING:
    from support.remote import Remote

    from .fault import Fault
    from .stage import Stage

__all__ = ["AFTER_SECONDS", "play", "stuck_worker"]

AFTER_SECONDS = 0.2
"""What a stuck worker is given."""
BYSTANDER_SECONDS = 3600
BLOCKS = 5


def play(stage: Stage, fault: Fault) -> Observation:
    """Play it on ``stage`` with ``fault``; say what was seen."""
    seen = stage.seen
    with fault.around(stage):
        with stage.serving():
            bystander = stage.worker()
            seen.bystander.pid = bystander.pid
            stage.warm_up(bystander)
            bystander.do("enter", "bystander", BYSTANDER_SECONDS)
            stage.wait(lambda: stage.open_scopes() == ["bystander"])
            fault.strike(stage)
            seen.first = fault.first(stage)
            fault.between(stage)
            stage.wait(lambda: stage.open_scopes() == ["bystander"])
            seen.open_meanwhile = stage.open_scopes() or []
            seen.second = fault.second(stage)
            seen.bystander_lived = bystander.alive
            leave(stage, bystander, seen)
            fault.relieve(stage)
            stage.take_account()
            fault.finish(stage)
        fault.ended(stage)
        stage.look_behind()
    return seen


def leave(stage: Stage, bystander: Remote, seen: Observation) -> None:
    """The bystander leaves its block, enters and leaves some more, and ends."""
    if seen.bystander_lived:
        bystander.do("leave", "bystander")
        seen.bystander.blocks = 1 + stage.warm_blocks + bystander.do("pairs", "bystander", BLOCKS)
        bystander.tell("exit")
    seen.bystander.code = stage.ended(bystander.pid)


def stuck_worker(stage: Stage, *, socket: bool = True, **options: Any) -> WorkerSeen:
    """Start a worker that gets stuck in the scope ``stuck``, and see what becomes of it."""
    worker = stage.worker(socket=socket, **options)
    worker.tell("stuck", "stuck", AFTER_SECONDS)
    frame = f"{WORKER_FILE}:{worker.hello['stuck_line']} stuck_here"
    return WorkerSeen(pid=worker.pid, frame=frame, code=stage.ended(worker.pid))
