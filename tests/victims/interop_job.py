"""A job for torchrun with our client, and light: it does not import PyTorch.

Arguments: a directory, the number of acquire/release pairs of each worker, and whether rank 0
gets stuck on the first attempt ("stuck") or not ("fine"). Each worker that has sent its pairs
leaves a file "rank.attempt" in the directory.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import timers

PR_SET_PDEATHSIG = 1


def main() -> None:
    # torch's server kills the agent of this worker, which then is an orphan nobody would end.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    directory, pairs, mode = sys.argv[1:]
    rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    assert isinstance(timers.configure_from_env(), timers.FileTimerClient)
    for _ in range(int(pairs)):
        with timers.expires(after=3600, scope="step"):
            pass
    marks = Path(directory)
    (marks / f"{rank}.{attempt}").touch()
    if mode == "stuck" and attempt == "0":
        while len(list(marks.iterdir())) < int(os.environ["WORLD_SIZE"]):
            time.sleep(0.01)  # for who is started last is ended with the first one
        # The others wait for rank 0, as they would in a collective operation.
        with timers.expires(after=0.2 if rank == "0" else 3600, scope="all_reduce"):
            while True:
                signal.pause()


if __name__ == "__main__":
    main()
