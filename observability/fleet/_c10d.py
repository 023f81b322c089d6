"""The engine for torchrun's store: a helper process with the torch of the job's own interpreter.

torch takes seconds and 200 MiB to load, and this process may have none: the helper is started once,
with the interpreter of a worker of this user. What it does not answer in time is given up, with
the helper, which is started anew when the store is joined again.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from timers.bounded import left

from ._store import Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HELPER = os.path.join(os.path.dirname(__file__), "_c10d_helper.py")
_START_SECONDS = 60.0
"""For loading torch, on a machine whose workers do the same."""
_CONNECT_SECONDS = 10.0
_CHUNK = 1 << 16
_KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "HOME", "LANG", "TMPDIR")
"""Of the workers' environment: what an interpreter needs to find its packages."""


class C10dStore(Store):
    """A store of texts in the TCPStore of a job.

    :param interpreter: path of a Python that has torch.
    :param environment: that of a worker of the job.
    :param address: where the store is.
    :param seconds: for how long one call may take.
    :raises StoreError: there is no helper to be had, or no such store.

    Calls are for one thread. The helper ends with the thread that made it.
    """

    def __init__(
        self,
        interpreter: str,
        environment: Mapping[str, str],
        address: tuple[str, int],
        *,
        seconds: float = 3.0,
    ) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._asked: dict[int, Future[Any]] = {}
        self._ended: str | None = None
        self._last = 0
        self._start(interpreter, environment)
        try:
            self._call("join", *address, _CONNECT_SECONDS, seconds=_START_SECONDS)
        except StoreError:
            self.close()
            raise

    def _start(self, interpreter: str, environment: Mapping[str, str]) -> None:
        given = {name: environment[name] for name in _KEPT if name in environment}
        given |= {
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "TORCH_CPP_LOG_LEVEL": "FATAL",
        }
        requests, self._requests = os.pipe2(os.O_CLOEXEC)
        self._replies, replies = os.pipe2(os.O_CLOEXEC)
        try:
            # Not subprocess: it would hand down the signals that "timers run" holds back.
            self.pid = os.posix_spawn(
                interpreter,
                [interpreter, "-u", _HELPER],
                given,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, requests, 0),
                    (os.POSIX_SPAWN_DUP2, replies, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setpgroup=0,  # Ctrl-C is for the job
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            os.close(self._requests)
            os.close(self._replies)
            raise StoreError(f"no helper: {interpreter}: {error.strerror or error}") from None
        finally:
            os.close(requests)
            os.close(replies)
        os.set_blocking(self._requests, False)
        threading.Thread(target=self._read, name="timers-fleet-replies", daemon=True).start()

    def _read(self) -> None:
        """Take the answers, to the end of the helper."""
        rest = b""
        try:
            while chunk := os.read(self._replies, _CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it has ended, or goes on about something else
        finally:
            with self._lock:
                self._ended = self._ended or "the helper has ended"
                asked, self._asked = self._asked, {}
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            os.close(self._replies)
            for future in asked.values():
                future.set_exception(StoreError(self._ended))

    def _take(self, answer: dict[str, Any]) -> None:
        with self._lock:
            future = self._asked.pop(answer["id"], None)
        if future is None:
            return
        if "error" in answer:
            future.set_exception(StoreError(str(answer["error"])))
        else:
            future.set_result(answer["value"])

    # -- calls ----------------------------------------------------------------------------------

    def wait(self, keys: Sequence[str], seconds: float) -> Future[bool]:
        """See :class:`~._store.Store`."""
        return self._send("wait", [list(keys), seconds], time.monotonic() + self._seconds)

    def close(self) -> None:
        """End the helper. Idempotent."""
        with self._lock:
            if self._requests < 0:
                return
            self._ended = self._ended or "closed"
            os.close(self._requests)
            self._requests = -1
            # Its pid is its own for as long as nobody has waited for it.
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def _call(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        bound = time.monotonic() + (self._seconds if seconds is None else seconds)
        try:
            return self._send(method, arguments, bound).result(left(bound))
        except TimeoutError:
            self.close()  # What blocks it would block every further call.
            raise StoreError(f"the store did not answer in time ({method})") from None

    def _send(self, method: str, arguments: Sequence[Any], until: float) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._last += 1
            data = json.dumps({"id": self._last, "do": method, "with": arguments}).encode() + b"\n"
            while data:
                if self._requests < 0 or self._ended:
                    raise StoreError(self._ended or "closed")
                try:
                    data = data[os.write(self._requests, data) :]
                except BlockingIOError:
                    _, ready, _ = select.select([], [self._requests], [], left(until))
                    if not ready:
                        raise StoreError("the helper takes no requests") from None
                except OSError as error:
                    raise StoreError(f"the helper has ended: {error.strerror}") from None
            self._asked[self._last] = future
        return future
