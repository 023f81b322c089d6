"""A process whose forked child waits in library code, called from no line of the job's own."""

from __future__ import annotations

import multiprocessing
import os
import signal

from victims.hang_job import die_with_parent

FORK = multiprocessing.get_context("fork")


def main() -> None:
    die_with_parent()
    os.register_at_fork(after_in_child=die_with_parent)
    child = FORK.Process(target=FORK.Barrier(2).wait)
    child.start()
    print("ready", flush=True)
    print(child.pid, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
