"""A process that does what a test tells it, one call at a time, over a TCP connection.

Both ends are here. The far end calls methods of an object of its own; the test decides when, so
that nothing depends on how long a process takes to get somewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EndThread", "Listener", "Remote", "serve"]

_SECONDS = 60.0


class EndThread(Exception):  # noqa: N818  # no error
    """Raised by a call whose thread is to end."""


class Remote:
    """The test's end of one process."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SECONDS)
        self._connection = connection
        self._file = connection.makefile("r")
        self.hello: dict[str, Any] = json.loads(self._file.readline())
        self.pid: int = self.hello["pid"]
        self._pidfd = os.pidfd_open(self.pid)

    def tell(self, call: str, *args: object, thread: str = "main") -> None:
        """Have it call something without waiting for the end of it."""
        self._send(call, args, thread, answer=False)

    def do(self, call: str, *args: object, thread: str = "main") -> Any:
        """Have it call something and return what that returned."""
        self.ask(call, *args, thread=thread)
        return self.answer()

    def ask(self, call: str, *args: object, thread: str = "main") -> None:
        """Have it call something; :meth:`answer` gives what that returned."""
        self._send(call, args, thread, answer=True)

    def answer(self) -> Any:
        """What the oldest unanswered :meth:`ask` returned, waiting for it."""
        line = self._file.readline()
        if not line:
            raise AssertionError(f"process {self.pid} ended instead of answering")
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(f"process {self.pid}: {answer['error']}")
        return answer["value"]

    def _send(self, call: str, args: tuple[object, ...], thread: str, *, answer: bool) -> None:
        request = {"call": call, "args": args, "thread": thread, "answer": answer}
        self._connection.sendall(json.dumps(request).encode() + b"\n")

    def gone(self, timeout: float = _SECONDS) -> bool:
        """Whether it has ended, waiting for that."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    @property
    def alive(self) -> bool:
        """Whether it is there at this moment."""
        return not self.gone(0)

    def signal(self, number: int) -> None:
        """Send a signal to it."""
        signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Kill it, if it is still there. Idempotent."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self._file.close()
        self._connection.close()
        os.close(self._pidfd)
        self._pidfd = -1


class Listener:
    """Where the far ends connect to."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(_SECONDS)
        self.port: int = self._socket.getsockname()[1]

    def accept(self) -> Remote:
        """The next process that connects."""
        connection, _ = self._socket.accept()
        return Remote(connection)

    def close(self) -> None:
        self._socket.close()


def serve(port: int, target: object, hello: dict[str, Any] | None = None) -> None:
    """The far end: connect, call what is asked for on ``target``; return when hung up on.

    A call goes to the thread that the test names; each has its own.
    """
    connection = socket.create_connection(("127.0.0.1", port))
    lock = threading.Lock()

    def say(message: object) -> None:
        with lock:
            connection.sendall(json.dumps(message).encode() + b"\n")

    def perform(request: dict[str, Any]) -> bool:
        ends = False
        try:
            answer = {"value": getattr(target, request["call"])(*request["args"])}
        except EndThread:
            answer, ends = {"value": None}, True
        except Exception as error:  # noqa: BLE001  # whatever it is, the test is told
            answer = {"error": repr(error)}
        if request["answer"]:
            say(answer)
        return not ends

    threads: dict[str, queue.SimpleQueue[dict[str, Any]]] = {}
    say({"pid": os.getpid(), **(hello or {})})
    with connection, connection.makefile("r") as file:
        for line in file:
            request = json.loads(line)
            name = request["thread"]
            if name == "main":
                perform(request)
                continue
            if name not in threads:
                threads[name] = queue.SimpleQueue()
                arguments = (threads[name], perform)
                threading.Thread(target=_work, args=arguments, name=name, daemon=True).start()
            threads[name].put(request)


def _work(
    requests: queue.SimpleQueue[dict[str, Any]], perform: Callable[[dict[str, Any]], bool]
) -> None:
    while perform(requests.get()):
        pass
