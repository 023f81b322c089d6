"""What a worker gets from ``timers run`` besides its timers. Standard library only.

``_worker_server``  start torch's own worker server, so that the Flight Recorder can be asked
"""

from __future__ import annotations

from ._worker_server import RECORDER_VARIABLE, start_worker_server

__all__ = ["RECORDER_VARIABLE", "start_worker_server"]
