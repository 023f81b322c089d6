"""Another user of the machine: what the files, the pipe, the socket and HTTP let through."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import stat
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from observability.sinks._dumps import DumpDirectory
from observability.sinks._line_file import LineFile
from support.children import FORKS, OTHER_UID, dropped, in_child
from support.command import Cli
from support.service import running
from timers import FileTimerClient, ReapPolicy
from timers.errors import InsecurePathError, ServerRunningError
from timers.events import RequestRejected
from timers.transport import socket_path
from timers.transport.fifo_reader import FifoReader
from timers.transport.socket_path import listen, remove
from victims.attacker import become, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.recording import Recorder
    from support.servers import SocketPair

pytestmark = [FORKS, pytest.mark.usefixtures("root")]

THIRD_UID = 65533


def as_other_user(check: Callable[[], object], uid: int = OTHER_UID) -> None:
    """Another user calls ``check``, which must not fail."""

    def attempt() -> bool:
        become(uid)
        check()
        return True

    assert in_child(attempt)


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Whatever is created has the mode that it was created with."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("no_umask")
def test_the_pipe_is_closed_to_others(shared: Path) -> None:
    path = shared / "pipe"
    reader = FifoReader(str(path))

    def tries() -> None:
        for flags in (os.O_WRONLY, os.O_RDONLY, os.O_RDWR):
            with pytest.raises(PermissionError):
                os.open(path, flags | os.O_NONBLOCK)
        with pytest.raises(PermissionError):
            path.unlink()

    as_other_user(tries)
    assert mode(path) == 0o600
    reader.close()


def test_a_pipe_that_was_open_to_all_is_closed_by_the_server_that_takes_it_over(
    shared: Path,
) -> None:
    path = shared / "pipe"
    os.mkfifo(path)
    path.chmod(0o666)
    as_other_user(lambda: os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK)))
    reader = FifoReader(str(path))
    assert mode(path) == 0o600
    reader.close()


def test_a_client_tells_nothing_to_a_pipe_of_another_user(shared: Path) -> None:
    path = shared / "pipe"

    def squats() -> None:
        os.mkfifo(path)
        path.chmod(0o666)

    as_other_user(squats)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        client = FileTimerClient(path, on_error="raise")
        with pytest.raises(InsecurePathError, match=f"belongs to user {OTHER_UID}"):
            client.acquire("secret", 2e9)
        assert os.read(reader, 4096) == b""
    finally:
        os.close(reader)


def test_another_user_cannot_signal_the_server_or_a_worker() -> None:
    parent = os.getpid()

    def tries() -> None:
        for number in (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
            with pytest.raises(PermissionError):
                os.kill(parent, number)

    as_other_user(tries)


def test_a_user_that_is_not_allowed_is_turned_away_where_another_one_is(
    sockets: SocketPair, recorder: Recorder
) -> None:
    policy = ReapPolicy(users=frozenset({OTHER_UID}))
    server = sockets.server(observer=recorder, policy=policy)
    sockets.directory.chmod(0o711)
    parent = os.getpid()

    def tries() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as attempt:
            attempt.connect(str(sockets.path))
            try:
                attempt.send(request(parent, "third"))
                assert attempt.recv(1) == b""
            except (BrokenPipeError, ConnectionResetError):
                return

    as_other_user(tries, THIRD_UID)
    refused = recorder.wait(RequestRejected)
    assert refused.reason == "other_user"
    assert f"user {THIRD_UID}" in refused.detail
    assert server.statistics.requests == 0


def test_anybody_can_keep_a_socket_from_being_created_in_a_shared_directory(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_path, "_TAKEOVER_SECONDS", 0.05)
    holds, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        become(OTHER_UID)
        fcntl.flock(os.open(shared, os.O_RDONLY), fcntl.LOCK_EX)
        os.write(held, b"x")
        signal.pause()
        os._exit(1)
    try:
        assert os.read(holds, 1) == b"x"
        with pytest.raises(ServerRunningError, match="somebody else holds its lock"):
            listen(str(shared / "socket"))
    finally:
        dropped(pid)
        os.close(holds)
        os.close(held)
    listen(str(shared / "socket")).connections.close()


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_umask")
def test_the_event_file_is_for_its_owner_and_group(shared: Path) -> None:
    path = shared / "events.jsonl"
    file = LineFile(path)
    file.write(b"{}\n")
    file.close()

    def tries() -> None:
        for flags in (os.O_RDONLY, os.O_WRONLY):
            with pytest.raises(PermissionError):
                os.open(path, flags)

    as_other_user(tries)
    assert mode(path) == 0o640


def test_events_do_not_follow_a_link_of_another_user(shared: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine\n")
    for target in (precious, tmp_path / "new"):
        link = shared / f"link to {target.name}"
        as_other_user(lambda link=link, target=target: link.symlink_to(target))  # type: ignore[misc]  # bound
        with pytest.raises(OSError, match="link"):
            LineFile(link)
    assert precious.read_text() == "mine\n"
    assert not (tmp_path / "new").exists()
    own = shared / "own"
    file = LineFile(own)
    file.write(b"{}\n")
    file.close()
    assert own.read_text() == "{}\n"


def test_events_are_not_written_to_a_file_of_another_user(shared: Path) -> None:
    path = shared / "events.jsonl"

    def squats() -> None:
        path.touch()
        path.chmod(0o666)

    as_other_user(squats)
    with pytest.raises(InsecurePathError, match=f"user {OTHER_UID}"):
        LineFile(path)
    assert path.read_text() == ""


def swaps(path: Path, precious: Path) -> None:
    """Put a link, a pipe, a file and nothing there, again and again, as another user."""
    become(OTHER_UID)
    while True:
        for put in (_link, _pipe, _file):
            with contextlib.suppress(OSError):
                put(path, precious)
            with contextlib.suppress(OSError):
                path.unlink()


def _link(path: Path, precious: Path) -> None:
    path.symlink_to(precious)


def _pipe(path: Path, _: Path) -> None:
    os.mkfifo(path, 0o666)


def _file(path: Path, _: Path) -> None:
    path.touch(0o666)


def opens_a_pipe(path: Path) -> tuple[int, Callable[[], None]]:
    reader = FifoReader(str(path))
    return reader.fileno(), reader.close


def opens_a_socket(path: Path) -> tuple[int, Callable[[], None]]:
    listener = listen(str(path))

    def close() -> None:
        remove(listener)
        listener.connections.close()

    return listener.connections.fileno(), close


def opens_events(path: Path) -> tuple[int, Callable[[], None]]:
    file = LineFile(path)
    file.write(b"{}\n")
    assert file._descriptor is not None

    def close() -> None:
        file.close()
        path.unlink(missing_ok=True)

    return file._descriptor, close


@pytest.mark.parametrize("opens", [opens_a_pipe, opens_a_socket, opens_events])
def test_what_is_swapped_between_the_check_and_the_use_is_not_used(
    shared: Path, tmp_path: Path, opens: Callable[[Path], tuple[int, Callable[[], None]]]
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine\n")
    path = shared / "path"
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            swaps(path, precious)
        os._exit(1)
    opened = refused = 0
    try:
        while opened < 20 or refused < 20:
            try:
                fd, close = opens(path)
            except OSError:
                refused += 1
                continue
            opened += 1
            assert os.fstat(fd).st_uid == os.geteuid()
            close()
            assert precious.read_text() == "mine\n"
    finally:
        dropped(pid)
    assert precious.read_text() == "mine\n"


@pytest.mark.usefixtures("no_umask")
def test_dumps_are_for_their_owner_alone(shared: Path) -> None:
    dumps = DumpDirectory(shared / "dumps")
    path = dumps.write({"timestamp": "now"})

    def tries() -> None:
        with pytest.raises(PermissionError):
            path.read_text()
        with pytest.raises(PermissionError):
            os.listdir(dumps.path)

    as_other_user(tries)
    assert (mode(dumps.path), mode(path)) == (0o700, 0o600)


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_a_dump_directory_of_another_user_is_refused(
    shared: Path, tmp_path: Path, kind: str
) -> None:
    path = shared / "dumps"
    kept = tmp_path / "stack-kept.json"
    kept.write_text("{}")

    def squats() -> None:
        if kind == "link":
            path.symlink_to(tmp_path)
        else:
            path.mkdir()
            path.chmod(0o777)

    as_other_user(squats)
    with pytest.raises(InsecurePathError):
        DumpDirectory(path, keep=1)
    assert kept.exists()


def test_what_a_run_shares_with_its_command_is_closed_to_others(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    script = 'stat -c %a "$(dirname "$TIMERS_SOCKET")" "$TIMERS_SOCKET" "$TIMERS_FILE"'
    ran = cli.run("run", "--http", "127.0.0.1:0", "--", "sh", "-c", script)
    assert ran.stdout.split() == ["700", "600", "600"]
    cli.assert_nothing_left()


# -- HTTP ------------------------------------------------------------------------------------------


def test_another_user_can_read_everything_over_http_without_a_token(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        url = f"http://{service.address}/timers"

        def reads() -> None:
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert b'"timers": []' in answer.read()

        as_other_user(reads)


def test_another_user_can_read_nothing_over_http_with_a_token(tmp_path: Path) -> None:
    with running(tmp_path, token="s3cret") as service:
        address = str(service.address)

        def reads() -> None:
            for path in ("/", "/timers", "/metrics"):
                with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                    urllib.request.urlopen(f"http://{address}{path}", timeout=30)
                refused.value.close()

        as_other_user(reads)
