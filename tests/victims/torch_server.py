"""torch's own server with our pipeline. Arguments: its pipe, the log, the pid to be reaped.

It ends this process after the reap, as torch's does; the metrics are written when the kill is
reported, which is the last that can be seen.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

from torch.distributed.elastic.timer.file_based_local_timer import (
    FileTimerRequest,
    FileTimerServer,
)

import observability
from observability.sinks.metrics import Metrics

if __name__ == "__main__":
    path, log, pid = sys.argv[1], sys.argv[2], int(sys.argv[3])
    pipeline = observability.open_pipeline(events=log, run_id="job-9")

    def log_event(name: str, request: Any) -> None:
        pipeline.log_event(name, request)
        if name == "kill worker process":
            Path(f"{log}.metrics").write_bytes(Metrics(pipeline).exposition()[0])

    server = FileTimerServer(path, "job-9", max_interval=0.1, log_event=log_event)
    server.start()
    # Its watchdog runs once a client has opened the pipe.
    request = FileTimerRequest(
        worker_pid=pid, scope_id="all_reduce", expiration_time=time.time() - 1, signal=9
    )
    with open(path, "w") as pipe:
        pipe.write(request.to_json() + "\n")
    threading.Event().wait(100)
