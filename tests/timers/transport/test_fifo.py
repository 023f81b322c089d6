"""Both ends of the pipe: who may have the path, and that no line is torn or reordered."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from support.children import FORKS, OTHER_UID, descriptors, same_path
from support.pipes import drain, fill, plain_reader
from support.waiting import eventually
from timers import FileTimerClient
from timers.errors import (
    InsecurePathError,
    NoServerError,
    PathOccupiedError,
    ServerRunningError,
    TimerError,
)
from timers.transport.fifo_reader import FifoReader
from timers.transport.fifo_writer import (
    DEFAULT_CAPACITY,
    F_GETPIPE_SZ,
    F_SETPIPE_SZ,
    FifoWriter,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "pipe")


@pytest.fixture
def reader(path: str) -> Iterator[FifoReader]:
    reader = FifoReader(path)
    yield reader
    reader.close()


# -- who may have the path ------------------------------------------------------------------------


def test_the_pipe_is_the_owners_alone(path: str) -> None:
    before = os.umask(0)
    try:
        reader = FifoReader(path)
    finally:
        os.umask(before)
    mode = os.lstat(path).st_mode
    assert stat.S_ISFIFO(mode)
    assert stat.S_IMODE(mode) == 0o600
    reader.close()
    assert not os.path.lexists(path)


def test_closing_twice_is_closing_once(reader: FifoReader, path: str) -> None:
    assert os.path.lexists(path)
    reader.close()
    assert reader.fileno() == -1
    reader.close()
    assert not os.path.lexists(path)


def test_the_pipe_of_a_dead_server_is_taken_over(path: str) -> None:
    script = (
        "import os, sys\n"
        "from timers.transport.fifo_reader import FifoReader\n"
        "reader = FifoReader(sys.argv[1])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    dead = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert dead.returncode == -signal.SIGKILL
    assert stat.S_ISFIFO(os.lstat(path).st_mode)
    os.chmod(path, 0o666)
    reader = FifoReader(path)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    FifoWriter(path).write(b"x\n")
    assert reader.read() == b"x\n"
    reader.close()


def test_a_client_of_a_dead_server_goes_on_with_its_successor(path: str) -> None:
    first = FifoReader(path)
    writer = FifoWriter(path)
    writer.write(b"one\n")
    assert first.read() == b"one\n"
    first.close(remove=False)  # as if it had been killed
    second = FifoReader(path)
    writer.write(b"two\n")
    assert second.read() == b"two\n"
    second.close()  # properly: the pipe is gone
    third = FifoReader(path)
    writer.write(b"three\n")
    assert third.read() == b"three\n"
    third.close()


def test_a_live_server_of_ours_is_not_replaced(reader: FifoReader, path: str) -> None:
    with pytest.raises(ServerRunningError, match="a live timer server reads from this path") as no:
        FifoReader(path)
    assert no.value.filename == path
    assert isinstance(no.value, (TimerError, FileExistsError))
    FifoWriter(path).write(b"x\n")
    assert reader.read() == b"x\n"


def test_any_other_live_reader_is_not_replaced(path: str) -> None:
    os.mkfifo(path)
    other = plain_reader(path)
    with pytest.raises(ServerRunningError):
        FifoReader(path)
    with open(path, "wb", buffering=0) as pipe:
        pipe.write(b"x")
    assert os.read(other, 10) == b"x"
    assert os.path.lexists(path)
    os.close(other)
    FifoReader(path).close()


def occupy_with_file(path: str) -> str:
    with open(path, "w", encoding="ascii") as file:
        file.write("precious")
    return path


def occupy_with_directory(path: str) -> str:
    os.mkdir(path)
    return path


def occupy_with_link_to_file(path: str) -> str:
    os.symlink(occupy_with_file(f"{path}.target"), path)
    return f"{path}.target"


def occupy_with_link_to_pipe(path: str) -> str:
    os.mkfifo(f"{path}.target")
    os.symlink(f"{path}.target", path)
    return f"{path}.target"


def occupy_with_link_to_nothing(path: str) -> str:
    os.symlink(f"{path}.nowhere", path)
    return path


@pytest.mark.parametrize(
    "occupy",
    [
        occupy_with_file,
        occupy_with_directory,
        occupy_with_link_to_file,
        occupy_with_link_to_pipe,
        occupy_with_link_to_nothing,
    ],
)
def test_what_is_not_a_pipe_is_never_deleted(path: str, occupy: Callable[[str], str]) -> None:
    target = occupy(path)
    before = [os.lstat(name) for name in (path, target)]
    with pytest.raises(PathOccupiedError, match="is at the timer server's path; remove it") as no:
        FifoReader(path)
    assert no.value.filename == path
    assert isinstance(no.value, (TimerError, FileExistsError))
    after = [os.lstat(name) for name in (path, target)]
    assert [(s.st_ino, s.st_mode, s.st_size) for s in before] == [
        (s.st_ino, s.st_mode, s.st_size) for s in after
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make another user's pipe")
def test_another_users_pipe_is_left_alone(path: str) -> None:
    os.mkfifo(path)
    os.chown(path, OTHER_UID, OTHER_UID)
    with pytest.raises(PathOccupiedError, match=f"belongs to user {OTHER_UID}"):
        FifoReader(path)
    assert os.lstat(path).st_uid == OTHER_UID


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FifoReader(str(tmp_path / "nowhere" / "pipe"))


def test_closing_does_not_remove_what_somebody_put_there_instead(path: str) -> None:
    reader = FifoReader(path)
    os.rename(path, f"{path}.old")  # keeps its inode, so that the file gets another
    occupy_with_file(path)
    reader.close()
    assert os.path.lexists(path)


def test_of_many_servers_that_start_at_once_one_wins(tmp_path: Path) -> None:
    for attempt in range(20):
        path = str(tmp_path / f"pipe-{attempt}")
        if attempt % 2:
            os.mkfifo(path)  # a stale one, for every second attempt
        barrier = threading.Barrier(6)
        winners: list[FifoReader] = []
        losers: list[ServerRunningError] = []

        def start(
            path: str = path,
            barrier: threading.Barrier = barrier,
            winners: list[FifoReader] = winners,
            losers: list[ServerRunningError] = losers,
        ) -> None:
            barrier.wait()
            try:
                winners.append(FifoReader(path))
            except ServerRunningError as error:
                losers.append(error)

        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(winners), len(losers)) == (1, 5)
        FifoWriter(path).write(b"x\n")
        assert winners[0].read() == b"x\n"
        winners[0].close()


def test_reading_never_blocks_and_never_ends(reader: FifoReader, path: str) -> None:
    assert reader.read() == b""
    for number in range(3):
        writer = FifoWriter(path)
        writer.write(b"%d\n" % number)
        writer.close()
        assert reader.read() == b"%d\n" % number
        assert reader.read() == b""


# -- forked children of a server ------------------------------------------------------------------


@FORKS
def test_a_forked_child_does_not_keep_the_servers_pipe(path: str) -> None:
    reader = FifoReader(path)
    writer = FifoWriter(path, connect_timeout=0.0)
    writer.write(b"x\n")
    ready, tell = os.pipe()
    wait, release = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b"1" if reader.fileno() == -1 else b"0")
        os.read(wait, 1)
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"1"
        assert os.path.lexists(path)  # the child has closed its copy and removed nothing
        assert reader.read() == b"x\n"
        reader.close(remove=False)  # as if the server had been killed, while the child lives
        with pytest.raises(BrokenPipeError):
            writer.write(b"x\n")
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.write(release, b"1")
        os.waitpid(child, 0)
        for fd in (ready, tell, wait, release):
            os.close(fd)


def test_a_client_of_a_killed_server_is_told_although_a_forked_child_lives(path: str) -> None:
    # The whole server, as a launcher has it: workers forked from the process that holds the pipe.
    script = (
        "import os, signal, sys\n"
        "from timers import FileTimerServer\n"
        "server = FileTimerServer(sys.argv[1], max_interval=60)\n"
        "server.start()\n"
        "if os.fork() == 0:\n"
        "    print(os.getpid(), flush=True)\n"
        "    sys.stdin.read()\n"
        "    os._exit(0)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        child = int(server.stdout.readline())
        writer = FifoWriter(path, connect_timeout=0.0)
        writer.write(b"x\n")
        server.kill()
        server.wait()
        os.kill(child, 0)  # it lives
        with pytest.raises(BrokenPipeError):
            writer.write(b"x\n")
        os.kill(child, 0)


# -- which descriptor -----------------------------------------------------------------------------


def test_with_a_server_of_ours_the_descriptor_is_kept(reader: FifoReader, path: str) -> None:
    assert fcntl.fcntl(reader.fileno(), F_GETPIPE_SZ) != DEFAULT_CAPACITY
    writer = FifoWriter(path)
    before = descriptors()
    writer.write(b"x\n")
    opened = descriptors() - before
    assert len(opened) == 1
    writer.write(b"y\n")
    assert descriptors() - before == opened
    assert reader.read() == b"x\ny\n"
    writer.close()
    assert descriptors() == before


def test_with_a_server_of_torch_the_pipe_is_opened_for_each_line(path: str) -> None:
    os.mkfifo(path)
    torch = plain_reader(path)
    writer = FifoWriter(path)
    before = descriptors()
    for line in (b"x\n", b"y\n"):
        writer.write(line)
        assert descriptors() == before
        assert os.read(torch, 100) == line
        assert os.read(torch, 100) == b""  # end-of-file: its reader comes back for what it has
    os.close(torch)


@pytest.mark.parametrize(
    ("pages", "kept"), [(1, False), (2, False), (8, True), (16, False), (32, True), (256, True)]
)
def test_the_capacity_is_the_sign(path: str, pages: int, kept: bool) -> None:
    os.mkfifo(path)
    other = plain_reader(path)
    fcntl.fcntl(other, F_SETPIPE_SZ, pages * os.sysconf("SC_PAGE_SIZE"))
    writer = FifoWriter(path)
    before = descriptors()
    writer.write(b"x\n")
    assert len(descriptors() - before) == int(kept)
    assert os.read(other, 100) == b"x\n"
    writer.close()
    os.close(other)


@pytest.mark.slow
def test_servers_of_ours_and_of_torch_in_turn_cost_no_descriptors(path: str) -> None:
    writer = FifoWriter(path)
    counts = set()
    for number in range(3):
        ours = FifoReader(path)
        writer.write(b"to ours %d\n" % number)
        assert ours.read() == b"to ours %d\n" % number
        ours.close()
        os.mkfifo(path)
        torch = plain_reader(path)
        for line in (b"to torch\n", b"again\n"):
            writer.write(line)
            assert os.read(torch, 100) == line
            assert os.read(torch, 100) == b""
        counts.add(len(descriptors()))
        os.close(torch)
        os.unlink(path)
    assert len(counts) == 1
    writer.close()


def test_a_kept_descriptor_is_not_inherited_by_programs(reader: FifoReader, path: str) -> None:
    writer = FifoWriter(path)
    writer.write(b"x\n")
    assert any(path in entry for entry in descriptors())
    shown = subprocess.check_output(
        [
            sys.executable,
            "-c",
            "from support.children import descriptors; print(*descriptors(), sep='\\n')",
        ],
        env=same_path(),
        close_fds=False,
        text=True,
    )
    assert "0 -> " in shown
    assert path not in shown
    assert reader.read() == b"x\n"


def test_a_forgotten_writer_costs_no_descriptor(reader: FifoReader, path: str) -> None:
    before = descriptors()
    for _ in range(5):
        FifoWriter(path).write(b"x\n")
        FileTimerClient(path).acquire("x", 1.0)
    gc.collect()
    assert descriptors() == before
    assert reader.read().count(b"\n") == 10


def test_a_program_that_closed_every_descriptor_is_no_trouble(
    reader: FifoReader, path: str
) -> None:
    writer = FifoWriter(path)
    writer.write(b"x\n")
    os.close(writer._fd)  # a daemon's closerange()
    writer.write(b"y\n")
    assert reader.read() == b"x\ny\n"


# -- no server ------------------------------------------------------------------------------------


def test_nobody_there(path: str) -> None:
    writer = FifoWriter(path, connect_timeout=0.0)
    with pytest.raises(NoServerError, match="no timer server listens at") as missing:
        writer.write(b"x\n")
    assert path in str(missing.value)
    assert missing.value.errno == errno.ENOENT
    assert isinstance(missing.value, (TimerError, BrokenPipeError))
    os.mkfifo(path)
    with pytest.raises(NoServerError) as nobody_reads:
        writer.write(b"x\n")
    assert nobody_reads.value.errno == errno.ENXIO
    reader = FifoReader(path)
    writer.write(b"y\n")
    assert reader.read() == b"y\n"
    reader.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a pipe away")
def test_another_users_pipe_is_told_nothing(path: str) -> None:
    os.mkfifo(path)
    theirs = plain_reader(path)
    writer = FifoWriter(path)
    writer.write(b"x\n")
    assert os.read(theirs, 100) == b"x\n"
    os.chown(path, OTHER_UID, OTHER_UID)
    before = descriptors()
    with pytest.raises(InsecurePathError, match=f"belongs to user {OTHER_UID}.*{path}"):
        writer.write(b"y\n")
    assert os.read(theirs, 100) == b""
    assert descriptors() == before
    os.close(theirs)


def test_a_wait_longer_than_poll_knows(reader: FifoReader, path: str) -> None:
    writer = FifoWriter(path)
    writer.write(b"early\n")
    fill(reader.fileno())
    found: list[bool] = []
    late = threading.Thread(target=lambda: found.append(writer.wait_for_room(1e12)))
    late.start()
    assert drain(reader.fileno()).startswith(b"early\n")
    late.join()
    assert found == [True]


def test_what_is_no_pipe_is_not_written_to(path: str) -> None:
    occupy_with_file(path)
    before = descriptors()
    with pytest.raises(NoServerError, match="is not a named pipe"):
        FifoWriter(path).write(b"x\n")
    with open(path, encoding="ascii") as file:
        assert file.read() == "precious"
    os.unlink(path)
    os.mkdir(path)
    with pytest.raises(NoServerError):
        FifoWriter(path, connect_timeout=0.0).write(b"x\n")
    assert descriptors() == before


def test_a_server_that_starts_a_moment_later_is_waited_for(path: str) -> None:
    started: list[FifoReader] = []
    writer = FifoWriter(path, connect_timeout=60.0)
    thread = threading.Thread(target=lambda: writer.write(b"x\n"))
    thread.start()
    started.append(FifoReader(path))
    thread.join()
    assert started[0].read() == b"x\n"
    started[0].close()


def test_a_server_that_stays_away_is_waited_for_once(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = os.open

    def counting(name: str, flags: int, mode: int = 0o777) -> int:
        opened.append(name)
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", counting)
    writer = FifoWriter(path, connect_timeout=0.05)
    with pytest.raises(NoServerError):
        writer.write(b"x\n")
    assert len(opened) > 1  # it looked more than once
    for _ in range(3):
        opened.clear()
        with pytest.raises(NoServerError):
            writer.write(b"x\n")
        assert len(opened) == 1  # a job without its watchdog must not stall at each block


# -- a full pipe ----------------------------------------------------------------------------------


def test_a_full_pipe_takes_nothing_and_says_so(reader: FifoReader, path: str) -> None:
    writer = FifoWriter(path)
    writer.write(b"x\n")
    filler = fill(reader.fileno())
    assert filler > 0
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            writer.write(b"y\n")
    assert writer.wait_for_room(0.0)  # somebody reads, if not now
    assert drain(reader.fileno()) == b"x\n" + b"\n" * filler
    writer.write(b"z\n")
    assert reader.read() == b"z\n"


def test_there_never_is_room_in_a_pipe_that_nobody_reads(path: str) -> None:
    reader = FifoReader(path)
    writer = FifoWriter(path)
    writer.write(b"x\n")
    fill(reader.fileno())
    reader.close()
    assert not writer.wait_for_room(60.0)


def test_a_full_pipe_of_torch_takes_nothing_either(path: str) -> None:
    os.mkfifo(path)
    torch = plain_reader(path)
    full = os.open(path, os.O_WRONLY)
    filler = fill(full)
    os.close(full)
    writer = FifoWriter(path)
    before = descriptors()
    with pytest.raises(BlockingIOError):
        writer.write(b"x\n")
    assert descriptors() == before
    assert len(drain(torch)) == filler
    writer.write(b"y\n")
    assert drain(torch) == b"y\n"
    os.close(torch)


# -- fork and threads -----------------------------------------------------------------------------


def test_servers_come_and_go_under_the_threads_of_a_client(path: str) -> None:
    # Replacing a descriptor must never let a line end up in somebody else's file.
    other = os.memfd_create("other")
    writer = FifoWriter(path, connect_timeout=60.0)
    stop = threading.Event()
    sent: list[int] = []

    def work() -> None:
        while not stop.is_set():
            try:
                writer.write(b"x\n")
            except NoServerError:
                continue  # that server went away in the middle of it
            sent.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    received = 0
    for _ in range(15):
        reader = FifoReader(path)
        before = received

        def some(reader: FifoReader = reader, before: int = before) -> bool:
            nonlocal received
            data = drain(reader.fileno())
            assert set(data.split(b"\n")) <= {b"x", b""}
            received += data.count(b"\n")
            return received > before + 20

        eventually(some)
        reader.close()
        os.close(os.dup(other))
    last = FifoReader(path)
    stop.set()
    for thread in threads:
        thread.join()
    received += drain(last.fileno()).count(b"\n")
    last.close()
    assert received > 300
    assert len(sent) >= 300
    assert os.fstat(other).st_size == 0
    os.close(other)
