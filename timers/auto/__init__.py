"""What a worker gets from ``timers run`` besides its timers. Standard library only.

The map::

    _worker_server.py    start torch's worker server, so that the flight recorder can be asked
"""

from __future__ import annotations

from ._worker_server import RECORDER_VARIABLE, start_worker_server

__all__ = ["RECORDER_VARIABLE", "start_worker_server"]
