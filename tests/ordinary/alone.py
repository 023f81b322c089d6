"""Jobs of one process that is quiet for long: ``alone.py compile SECONDS STRETCH`` or ``pool``."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TURN = """\
constexpr unsigned long turn(unsigned long number) {
    for (int each = 0; each < 100000; ++each) {
        number = number * 6364136223846793005UL + 1442695040888963407UL;
        number ^= number >> 17;
    }
    return number;
}
"""
LIMITS = ("-fconstexpr-ops-limit=1000000000", "-fconstexpr-loop-limit=1000000")
COMPILES = 2


def compile_one(functions: int, until: float) -> float:
    """One file, in one compiler, which writes nothing before it is done; its CPU seconds."""
    parts = (
        f"constexpr unsigned long value_{number} = turn({number}UL);\n"
        f"unsigned long get_{number}() {{ return value_{number}; }}\n"
        for number in range(functions)
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernels.cpp")
        source.write_text(TURN + "".join(parts), encoding="ascii")
        command = ["g++", *LIMITS, "-c", str(source), "-o", str(Path(folder, "kernels.o"))]
        with subprocess.Popen(command, process_group=0) as compiler:
            try:
                assert compiler.wait(until - time.monotonic()) == 0
            except subprocess.TimeoutExpired:
                print("the time is up before it was compiled", flush=True)
                os.killpg(compiler.pid, signal.SIGKILL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def build(seconds: float, stretch: float) -> None:
    """Compile for a stretch of CPU time, twice; only with what nobody else needs of it."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    began = time.monotonic()
    end = began + seconds
    compile_one(1, end)
    each = max(0.1, compile_one(4, end) / 4)
    for number in range(COMPILES):
        time.sleep(max(0.0, began + number * seconds / COMPILES - time.monotonic()))
        start = time.monotonic()
        used = compile_one(max(1, round(stretch / each)), end)
        print(f"compiled for {time.monotonic() - start:.0f} s, {used:.0f} of CPU", flush=True)
    time.sleep(max(0.0, end - time.monotonic()))


def pool() -> None:
    """Some work at first; then nothing, until somebody types a line."""
    with multiprocessing.get_context("fork").Pool(3) as workers:
        print(sum(workers.map(abs, range(1000))), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    if sys.argv[1] == "pool":
        pool()
    else:
        build(float(sys.argv[2]), float(sys.argv[3]))
