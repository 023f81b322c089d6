"""Which files a thread runs, and whether one of them is the driver of a GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from observability.samples.types import Pace, WorkerView
from observability.samples.waits import Wait
from observability.samples.worker import read
from observability.sampling import _instructions, _sample
from observability.sampling._instructions import instruction_files, is_driver
from support.processes import VICTIMS, victim
from support.waiting import eventually
from timers.events import WorkerInfo
from timers.linux import procfs

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 60.0
LIBC, CUDA, TORCH = "/usr/lib/libc.so.6", "/usr/lib/libcuda.so.580.159.04", "/t/libtorch_cpu.so"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_instructions, "_SECONDS", SECONDS)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((CUDA, "[vdso]", LIBC, CUDA), True),
        ((TORCH, LIBC, TORCH), False),
        (("/opt/python3.12", TORCH), False),
        (("[vdso]", LIBC, ""), None),
        ((), None),
        ((CUDA, TORCH, TORCH), None),  # it launches kernels: it may do either
        ((CUDA, CUDA, "/n/libnccl.so.2"), None),
        ((TORCH, "/usr/lib/libmpi.so.40"), None),
        (("/usr/lib/libcudart.so.13", "/usr/lib/libnvidia-ptxjitcompiler.so.1"), True),
        (("/opt/rocm/lib/libamdhip64.so.6", "/opt/rocm/lib/libhsa-runtime64.so.1"), True),
        (("/t/libc10.so", "/t/libmkl_core.so"), False),
        (("/t/libcudart_static_test.so",), False),
    ],
)
def test_what_the_files_say(files: tuple[str, ...], expected: bool | None) -> None:
    assert is_driver(files) is expected


@pytest.mark.parametrize(("name", "expected"), [("libcuda.so.1", True), ("libwork.so", False)])
def test_a_thread_that_spins(tmp_path: Path, name: str, expected: bool) -> None:
    path = tmp_path / name
    with victim("spinning", str(path)) as process:
        files = eventually(lambda: instruction_files(process.pid, process.pid, SECONDS), "it spins")
        assert set(files) == {str(path)}
        assert is_driver(files) is expected


@pytest.mark.parametrize(
    ("name", "wait", "pace"),
    [("libcuda.so.1", Wait.DEVICE, Pace.STUCK), ("libwork.so", Wait.COMPUTE, Pace.SLOW)],
)
def test_work_with_a_gpu_open_is_no_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wait: Wait, pace: Pace
) -> None:
    # The file that it has open stands for the GPU's device.
    monkeypatch.setattr(_sample, "_GPUS", (str(tmp_path),))
    with victim("spinning", str(tmp_path / name)) as process:
        pid = process.pid
        eventually(lambda: instruction_files(pid, pid, SECONDS), "it spins")
        worker = WorkerInfo(pid=pid, rank=0)

        def judged() -> tuple[Wait, Pace]:
            # Its share of a CPU shows in many samples only, and others want the CPUs, too.
            samples = tuple(
                _sample.take_sample(pid, thread=None, timeout=SECONDS) for _ in range(12)
            )
            first = read(WorkerView(worker=worker, samples=samples))
            around = _sample.surroundings(pid, first, thread=None, timeout=SECONDS, native=True)
            assert (around.gpu, around.native) == (True, ())  # nothing was paused for long
            reading = read(WorkerView(worker=worker, samples=samples, surroundings=around))
            return reading.reason.wait, reading.pace

        eventually(lambda: judged() == (wait, pace), f"{wait} and {pace} are seen", timeout=SECONDS)


def test_its_signals_reach_it_and_it_goes_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, VICTIMS / "spinning.py", str(tmp_path / "libwork.so"), "alarm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            for _ in range(5):
                assert instruction_files(process.pid, process.pid, SECONDS)
                process.stdin.write("how many\n")
                process.stdin.flush()
                assert int(process.stdout.readline()) > 0
            before = cpu_seconds(process.pid)
            eventually(lambda: cpu_seconds(process.pid) > before + 0.05, "it spins on")
            assert process.poll() is None  # not one stop was taken for its end
        finally:
            process.kill()


def test_one_that_is_stopped_stays_so(tmp_path: Path) -> None:
    with victim("spinning", str(tmp_path / "libcuda.so.1")) as process:
        os.kill(process.pid, signal.SIGSTOP)
        eventually(lambda: state(process.pid) == "T", "it is stopped")
        files = instruction_files(process.pid, process.pid, SECONDS)
        assert files == ()
        assert is_driver(files) is None
        # A tracer that leaves wakes it up; it stops again in the kernel, as soon as it has a core.
        eventually(lambda: state(process.pid) == "T", "it is as it was")
        os.kill(process.pid, signal.SIGCONT)
        eventually(lambda: instruction_files(process.pid, process.pid, SECONDS), "it goes on")


def test_one_that_has_ended_and_no_time() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert instruction_files(process.pid, process.pid, SECONDS) == ()
    assert instruction_files(os.getpid(), os.getpid(), 0) == ()


def cpu_seconds(pid: int) -> float:
    return procfs.thread_cpu_seconds(pid, pid) or 0.0


def state(pid: int) -> str | None:
    stat = procfs.stat(pid)
    return stat.state if stat else None
