"""One worker of a soak run: soak_worker.py EPISODE DIRECTORY.

Does what its episode says (:mod:`soak.plan`) and keeps its own account of it (:mod:`soak.journal`).
Where somebody else has to act it says so on stdout, a JSON object a line, and waits for a line on
stdin. The server's address is in the environment.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timers
from soak.journal import Account, Child, Journal
from soak.plan import DEAF, Episode

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.api import TimerClient

LONG = 600.0
"""Seconds: no ordinary block comes near to it, however slow the machine is."""
ODD_SCOPE = 'batch "7" \\ {é}'
_forever = threading.Event()


def hang_in_sleep() -> None:
    time.sleep(10_000)


def hang_in_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def hang_in_spin() -> None:
    turns = 0
    while True:
        turns += 1


def hang_in_read() -> None:
    reader, _writer = os.pipe()
    os.read(reader, 1)


def hang_in_gil() -> None:
    ctypes.PyDLL(None).sleep(10_000)  # functions of a PyDLL keep the interpreter's lock


def hang_in_stopped() -> None:
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)


class Hand:
    """What one thread does, and its count of it."""

    def __init__(self, client: TimerClient, seed: int) -> None:
        self.account = Account()
        self._client = client
        self._chance = random.Random(seed)

    def work(self, blocks: int) -> None:
        """Do so many things, chosen by chance."""
        for _ in range(blocks):
            self._chance.choice(_DEEDS)(self)

    def plain(self) -> None:
        scope = self._chance.choice(("step", "load", "all_reduce", "save", ODD_SCOPE))
        with timers.expires(LONG, scope):
            self._pass_time()
        self._block(scope)

    def unnamed(self) -> None:
        line = sys._getframe().f_lineno + 1
        with timers.expires(LONG):
            self._pass_time()
        self._block(f"{__file__}#{line}")

    def nested(self) -> None:
        with timers.expires(LONG, "outer"), timers.expires(LONG, "inner"):
            self._pass_time()
        self._block("outer")
        self._block("inner")

    def recursive(self) -> None:
        """Blocks of one scope inside each other."""
        depth = self._chance.randint(2, 4)
        self._descend(depth)
        self._block("recursive", depth)

    def _descend(self, depth: int) -> None:
        with timers.expires(LONG, "recursive"):
            if depth > 1:
                self._descend(depth - 1)

    def heartbeat(self) -> None:
        """One block whose countdown is restarted by the client, without a scope of its own."""
        beats = self._chance.randint(1, 5)
        with timers.expires(LONG, "beating"):
            for _ in range(beats):
                self._client.acquire("beating", time.time() + LONG)
        self.account.entered("beating", 1 + beats)
        self.account.left_again("beating")

    def torch_style(self) -> None:
        """The client alone, as torch's users call it; a second release is allowed."""
        self._client.acquire("by hand", time.time() + LONG)
        self._pass_time()
        self._client.release("by hand")
        self._client.release("by hand")
        self._block("by hand")
        self.account.releases["by hand"] += 1

    def raising(self) -> None:
        try:
            with timers.expires(LONG, "raising"):
                raise KeyError("the block's own")  # noqa: TRY301  # what is tried here
        except KeyError:
            self._block("raising")

    def decorated(self) -> None:
        @timers.expires(LONG, "decorated")
        def task(value: int) -> int:
            return value + 1

        assert task(task(1)) == 3
        self._block("decorated", 2)

    def tasks(self) -> None:
        """Blocks of one scope in one thread that end in another order than they began."""

        async def task(turns: int) -> None:
            async with timers.expires(LONG, "task"):
                for _ in range(turns):
                    await asyncio.sleep(0)

        async def together() -> None:
            await asyncio.gather(*(task(turns) for turns in (1, 3, 2)))

        asyncio.run(together())
        self._block("task", 3)

    def burst(self) -> None:
        for _ in range(300):
            with timers.expires(LONG, "burst"):
                pass
        self._block("burst", 300)

    def _block(self, scope: str, times: int = 1) -> None:
        self.account.entered(scope, times)
        self.account.left_again(scope, times)

    def _pass_time(self) -> None:
        if self._chance.random() < 0.3:
            time.sleep(self._chance.random() * 0.02)


_COMMON: tuple[Callable[[Hand], None], ...] = (
    Hand.plain,
    Hand.unnamed,
    Hand.nested,
    Hand.recursive,
    Hand.heartbeat,
    Hand.torch_style,
    Hand.raising,
    Hand.decorated,
)
_DEEDS = (*(_COMMON * 4), Hand.tasks, Hand.burst)


class Worker:
    """One process: what its episode says, and its account."""

    def __init__(self, episode: Episode, directory: str, client: TimerClient) -> None:
        self._episode = episode
        self._directory = directory
        self._client = client
        self._account = Account(pair=episode.pair)
        self._lock = threading.Lock()
        self._journal = Journal(directory, episode.number)

    def run(self) -> None:
        """Work, and then come to the point. Never returns for some kinds of episodes."""
        threads = self._start_work()
        if self._episode.kind == "forks":
            self._fork()
        for thread in threads:
            thread.join()
        ends = {
            "hangs": self._hang,
            "is killed": self._be_killed,
            "leaves": self._leave,
            "overruns": self._overrun,
            "is warned": self._be_warned,
        }
        ends.get(self._episode.kind, lambda: None)()
        self._journal.write(self._account)

    def _start_work(self) -> list[threading.Thread]:
        threads = []
        for number in range(self._episode.threads):
            arguments = (self._episode.seed + number,)
            threads.append(threading.Thread(target=self._labour, args=arguments))
            threads[-1].start()
        return threads

    def _labour(self, seed: int) -> None:
        hand = Hand(self._client, seed)
        hand.work(self._episode.blocks)
        with self._lock:
            self._account.add(hand.account)

    # -- how it ends ------------------------------------------------------------------------------

    def _write(self) -> None:
        with self._lock:
            self._journal.write(self._account)

    def _hang(self) -> None:
        """Get stuck in a block inside of another one, while other threads are in theirs."""
        self._hold()
        self._keep_busy()
        episode = self._episode
        scope = f"hang in {episode.mode}"
        stuck = globals()[f"hang_in_{episode.mode}"]
        if episode.signal == DEAF:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        outcome = "escalated" if episode.signal == DEAF else "killed"
        self._account.entered("around a hang")
        self._account.entered(scope)
        self._account.expirations[scope] += 1
        self._account.reaped = (scope, outcome)
        self._write()

        def hang() -> None:
            with timers.expires(LONG, "around a hang"), timers.expires(episode.after, scope):
                stuck()

        if episode.in_thread:
            thread = threading.Thread(target=hang)
            thread.start()
            thread.join()
        else:
            hang()

    def _be_killed(self) -> None:
        self._hold()
        self._keep_busy()
        with timers.expires(LONG, "killed in here"):
            self._account.entered("killed in here")
            self._write()
            say(open="killed in here", then="kill")
            globals()[f"hang_in_{self._episode.mode}"]()

    def _leave(self) -> None:
        self._hold()
        with timers.expires(LONG, "left open"):
            self._account.entered("left open")
            self._journal.write(self._account)
            say(open="left open", then="end")
            wait_for_word()
            os._exit(self._episode.exit_status)

    def _overrun(self) -> None:
        with timers.expires(self._episode.after, "overrun"):
            say(waits_for="timer expired", scope="overrun")
            wait_for_word()
        self._account.entered("overrun")
        self._account.expirations["overrun"] += 1
        self._account.left_again("overrun")

    def _be_warned(self) -> None:
        with timers.expires(LONG, "warned", warn_after=self._episode.after):
            say(waits_for="timer warning", scope="warned")
            wait_for_word()
        self._account.entered("warned")
        self._account.warnings["warned"] += 1
        self._account.left_again("warned")

    def _keep_busy(self) -> None:
        """Have a thread go in and out of blocks until the end, whenever that comes.

        It says what it is going to do before it does it, so that only the last can be missing.
        """
        scope = "at work until the end"

        def send() -> None:
            account = self._account
            while True:
                with self._lock:
                    account.entered(scope)
                    self._journal.write(account)
                with timers.expires(LONG, scope):
                    time.sleep(0.002)
                    with self._lock:
                        account.left_again(scope)
                        self._journal.write(account)

        if self._episode.busy:
            self._account.at_work = scope
            threading.Thread(target=send, daemon=True).start()

    def rest(self) -> None:
        """Stay until everything has arrived: _exit(2) delivers nothing that waits to be sent."""
        with timers.expires(LONG, "at rest"):
            say(open="at rest", then="end")
            wait_for_word()
        self._account.entered("at rest")
        self._account.left_again("at rest")
        self._journal.write(self._account)

    def _hold(self) -> None:
        """Have some threads rest in an open block each."""
        held = threading.Barrier(self._episode.holders + 1)

        def hold() -> None:
            with timers.expires(LONG, "held"):
                held.wait()
                _forever.wait()

        for _ in range(self._episode.holders):
            threading.Thread(target=hold, daemon=True).start()
            self._account.entered("held")
        held.wait()

    # -- children ---------------------------------------------------------------------------------

    def _fork(self) -> None:
        children = []
        with timers.expires(LONG, "around a fork"):
            for index in range(len(self._episode.children)):
                pid = os.fork()
                if pid == 0:
                    self._be_child(index)
                children.append((pid, self._episode.child(index).exit_status))
        with self._lock:
            self._account.entered("around a fork")
            self._account.left_again("around a fork")
        for pid, planned in children:
            seen = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self._account.children.append(Child(pid, planned, seen))

    def _be_child(self, index: int) -> NoReturn:
        status = 1
        try:
            die_with_parent()
            child = Worker(self._episode.child(index), self._directory, self._client)
            child.run()
            child.rest()
            status = 0
        finally:
            os._exit(status)


def say(**what: object) -> None:
    # One write, so that what parent and children say does not mix.
    os.write(1, json.dumps({"pid": os.getpid(), **what}).encode() + b"\n")


def wait_for_word() -> None:
    """Until the run sends this process SIGUSR1. Blocked in every thread, so that none is lost."""
    signal.sigwait({signal.SIGUSR1})


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() == 1:
        os._exit(1)


def make_client(episode: Episode) -> TimerClient:
    number = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, DEAF: signal.SIGTERM}[episode.signal]
    sent = 0 if episode.kind == "overruns" else number
    if episode.pair == "file":
        return timers.FileTimerClient(os.environ["TIMERS_FILE"], signal=sent)
    return timers.SocketTimerClient(os.environ["TIMERS_SOCKET"], signal=sent)


def fail(arguments: threading.ExceptHookArgs) -> None:
    sys.excepthook(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)  # type: ignore[arg-type]  # there is a value
    os._exit(1)


def main() -> None:
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    threading.excepthook = fail
    # Made under a lock of asyncio, for which a child that is forked meanwhile would wait for ever.
    asyncio.get_event_loop_policy()
    episode = Episode.from_json(sys.argv[1])
    client = make_client(episode)
    timers.configure(client)
    Worker(episode, sys.argv[2], client).run()


if __name__ == "__main__":
    main()
