"""A worker of a soak run that misbehaves: soak_rogue.py EPISODE DIRECTORY SERVER_PID.

Sends good lines and bad ones, straight into the pipe or the socket, and keeps an account of what
the server has to make of them.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soak.journal import Account, Journal
from soak.plan import Episode
from timers.linux import procfs
from victims.soak_worker import die_with_parent, say, wait_for_word

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPE = "among bad lines"
LAST = "after bad lines"
_ROOM = 1 << 18


def line(**changes: object) -> bytes:
    """A good acquire of this process in torch's form, but for ``changes``."""
    request = {
        "version": 1,
        "pid": os.getpid(),
        "scope_id": SCOPE,
        "expiration_time": time.time() + 3600,
        "signal": 9,
    }
    return json.dumps({**request, **changes}).encode() + b"\n"


def without(key: str) -> bytes:
    request = json.loads(line())
    del request[key]
    return json.dumps(request).encode() + b"\n"


def bad_lines() -> list[tuple[str, bytes]]:
    """What is refused however it arrives, with the reason."""
    return [
        ("not_json", b"GET / HTTP/1.1\r\n"),
        ("not_json", b"[" * 3000 + b"\n"),
        ("not_json", line()[:-1] + b" and more\n"),
        ("not_json", line(expiration_time=float("nan"))),
        ("not_an_object", b"null\n"),
        ("not_an_object", b"[1, 2]\n"),
        *(("missing_key", without(k)) for k in ("pid", "scope_id", "expiration_time", "signal")),
        ("wrong_type", line(pid="1")),
        ("wrong_type", line(scope_id=7)),
        ("wrong_type", line(thread="main")),
        ("out_of_range", line(pid=2**40)),
        ("out_of_range", line(signal=65)),
        ("out_of_range", line(expiration_time=1e30)),
        ("unsupported_version", line(version=2)),
        ("not_utf8", line().replace(b"among", b"\xff\xfe")),
        ("not_utf8", bytes(range(128, 200)) + b"\n"),
        ("too_long", line(scope_id="x" * 10_000)),
        ("too_long", b"y" * 5_000 + b"\n"),
        ("empty", b"\n"),
        ("empty", b"   \n"),
    ]


class Rogue:
    """Sends lines through one kind of transport; ``write`` sends one as it is."""

    def __init__(self, account: Account, chance: random.Random) -> None:
        self._account = account
        self._chance = chance

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def good(self) -> None:
        """Into a block and out of it."""
        self.write(line())
        self.write(line(expiration_time=-1))
        self._account.entered(SCOPE)
        self._account.left_again(SCOPE)

    def bad(self, reason: str, data: bytes) -> None:
        self.write(data)
        self._account.rejected[reason] += 1

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            lines = bad_lines()
            self._chance.shuffle(lines)
            for reason, data in lines:
                self.bad(reason, data)
                self.good()
            self.special()
        # It has to be there until all of this is read: nobody can be mistaken for the dead.
        self.write(line(scope_id=LAST))
        self._account.entered(LAST)
        say(open=LAST, then="end")
        wait_for_word()
        self.write(line(scope_id=LAST, expiration_time=-1))
        self._account.left_again(LAST)

    def special(self) -> None:
        """What this transport alone can be told."""
        raise NotImplementedError


class PipeRogue(Rogue):
    """Into the named pipe: it also lies about who it is, and dies in the middle of lines.

    One at a time: half a line takes the next one along, which is only lost when that is bad too.
    """

    def __init__(self, account: Account, chance: random.Random, server_pid: int) -> None:
        super().__init__(account, chance)
        self._server_pid = server_pid
        self._pipe = os.open(os.environ["TIMERS_FILE"], os.O_WRONLY)

    def write(self, data: bytes) -> None:
        # More than PIPE_BUF is written in one piece too, as long as there is room: pipe_write()
        # keeps the pipe's lock until it has to wait.
        waiting = array.array("i", [_ROOM])
        while waiting[0] >= _ROOM:
            fcntl.ioctl(self._pipe, termios.FIONREAD, waiting)
        os.write(self._pipe, data)

    def special(self) -> None:
        for pid in (-3, 0, 1, self._server_pid):
            self.bad("protected_process", line(pid=pid))
        self.bad("identity_mismatch", line(start_time=1, thread=1))
        self.bad("not_json", line()[: self._chance.randint(12, 60)])  # and its writer died
        self.good()
        self._speak_for_the_dead()

    def _speak_for_the_dead(self) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        self.write(line(pid=pid, scope_id="of the dead"))
        self._account.entered("of the dead")
        self._account.ghosts.append(pid)


class SocketRogue(Rogue):
    """To the socket: whatever a message says, it speaks for who sent it, or for nobody."""

    def __init__(self, account: Account, chance: random.Random) -> None:
        super().__init__(account, chance)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(os.environ["TIMERS_SOCKET"])

    def write(self, data: bytes) -> None:
        self._socket.send(data)

    def special(self) -> None:
        self.bad("not_json", line()[: self._chance.randint(12, 60)])
        for pid in (1, os.getppid(), -3):
            self.write(line(pid=pid, start_time=1))
            self.write(line(pid=pid, start_time=1, expiration_time=-1))
            self._account.entered(SCOPE)
            self._account.left_again(SCOPE)
        pid = os.fork()
        if pid == 0:  # the connection is not its own
            self.write(line())
            os._exit(0)
        os.waitpid(pid, 0)
        self._account.rejected["identity_mismatch"] += 1


@contextlib.contextmanager
def alone(directory: str) -> Iterator[None]:
    """No two of these at a time."""
    with open(os.path.join(directory, "rogue.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    episode = Episode.from_json(sys.argv[1])
    directory = sys.argv[2]
    assert procfs.start_time(os.getpid()) != 1
    account, chance = Account(pair=episode.pair), random.Random(episode.seed)
    journal = Journal(directory, episode.number)
    if episode.pair == "file":
        with alone(directory):
            PipeRogue(account, chance, int(sys.argv[3])).run(episode.threads)
    else:
        SocketRogue(account, chance).run(episode.threads)
    journal.write(account)


if __name__ == "__main__":
    main()
