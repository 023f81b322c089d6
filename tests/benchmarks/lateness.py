"""From the deadline to the death of the worker, at each server's own settings.

The workers are the same for all: a process that writes one request and sleeps. torch's pipe server
kills its own process after a reap, so each of its samples has a server of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from .serving import serving
from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORKER = """
import json, os, sys, time
after = float(sys.argv[2])
deadline = time.monotonic() + after
fd = os.open(sys.argv[1], os.O_WRONLY)
request = {"version": 1, "pid": os.getpid(), "scope_id": "stuck",
           "expiration_time": time.time() + after, "signal": 9}
os.write(fd, (json.dumps(request) + "\\n").encode())
os.close(fd)
print(deadline, flush=True)
time.sleep(3600)
"""
_KINDS = {
    "ours, default settings (with stack dump)": ("timers", ""),
    "ours, without stack dump": ("timers", ", before_kill=lambda run_id, timers: None"),
    "torch, as its agent starts it (max_interval=0.1)": (
        "torch.distributed.elastic.timer",
        ", max_interval=0.1",
    ),
    "torch, default settings": ("torch.distributed.elastic.timer", ""),
}


def _after() -> float:
    return random.uniform(0.2, 0.4)  # not in step with anybody's interval


def _sample(path: str) -> float:
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, path, str(_after())], stdout=subprocess.PIPE
    )
    assert worker.stdout
    try:
        deadline = float(json.loads(worker.stdout.readline()))
        pidfd = os.pidfd_open(worker.pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(60_000):
            raise RuntimeError("the worker was not killed within a minute")
        died = time.monotonic()
        os.close(pidfd)
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
    return died - deadline


def rows(samples: int = 30) -> Iterator[Row]:
    """Measure; torch's rows come when torch is installed."""
    base = next(iter(_KINDS))
    for kind, (module, options) in _KINDS.items():
        if module == "timers":
            with serving(module, options) as path:
                yield Row(kind, [_sample(path) for _ in range(samples)], unit="ms", base=base)
            continue
        if importlib.util.find_spec("torch") is None:
            continue
        found = []
        for _ in range(max(3, samples // 6)):
            with serving(module, options) as path:
                found.append(_sample(path))
        yield Row(kind, found, unit="ms", base=base)
