"""The helper: uses the TCPStore of a job for a watchdog, which asks by lines of JSON.

Run by the interpreter of the job's workers, which has torch and perhaps nothing else: standard
library and torch only, no import of ours. A line ``{"id": 1, "do": "add", "with": [...]}`` on
standard input is answered by ``{"id": 1, "value": ...}`` or ``{"id": 1, "error": ...}`` on standard
output, in any order. It ends with its standard input, and with the process that started it.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from typing import Any

PREFIX = "timers/"
MOST = 1 << 20
"""Characters of a text that is passed on; of a longer one only that it is too long."""
AT_ONCE = 64
"""Texts that are asked for in one go: as many as the watchdog does."""
_PR_SET_PDEATHSIG = 1


class Connection:
    """One connection to the store. Used by one thread."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        distributed: Any = importlib.import_module("torch.distributed")
        self._store = distributed.TCPStore(
            host,
            port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=seconds),
        )

    def add(self, key: str, amount: int) -> int:
        return int(self._store.add(PREFIX + key, amount))

    def set(self, key: str, text: str) -> None:
        self._store.set(PREFIX + key, text)

    def set_first(self, key: str, text: str) -> str:
        return _text(self._store.compare_set(PREFIX + key, "", text))

    def get(self, keys: list[str]) -> list[str | None]:
        found: list[str | None] = []
        for start in range(0, len(keys), AT_ONCE):
            found += self._get([PREFIX + key for key in keys[start : start + AT_ONCE]])
        return found

    def _get(self, keys: list[str]) -> list[str | None]:
        # Without the check it would wait for what is not there.
        there = keys if self._store.check(keys) else [k for k in keys if self._store.check([k])]
        known = dict(zip(there, self._store.multi_get(there), strict=True)) if there else {}
        return [_text(known[key]) if key in known else None for key in keys]

    def wait(self, keys: list[str], seconds: float) -> bool:
        began = time.monotonic()
        try:
            self._store.wait([PREFIX + key for key in keys], timedelta(seconds=seconds))
        except Exception as error:
            # Of the same type as for a store that is gone, in some versions.
            if "timeout" in str(error).lower() and time.monotonic() - began >= seconds:
                return False
            raise
        return True

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            self._store.delete_key(PREFIX + key)


def _text(value: bytes) -> str:
    # Ours are ASCII, and any byte is some text.
    return value.decode("latin-1") if len(value) <= MOST else " " * (MOST + 1)


class Helper:
    """Answers what is asked: what waits on a thread and a connection of its own."""

    def __init__(self, output: int) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._place: list[Any] = []
        self._connection: Connection | None = None
        self._idle: list[Connection] = []

    def run(self) -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if request["do"] == "wait":
                # So that a wait for a report need not wait for the one for the next roll call.
                target = (request, self._wait)
                threading.Thread(target=self._answer, args=target, daemon=True).start()
            else:
                self._answer(request, self._perform)

    def _perform(self, request: dict[str, Any]) -> Any:
        if request["do"] == "join":
            self._place = request["with"]
            self._connection = Connection(*self._place)
            return None
        if self._connection is None:
            raise RuntimeError("not joined")
        return getattr(self._connection, request["do"])(*request["with"])

    def _wait(self, request: dict[str, Any]) -> bool:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = Connection(*self._place)
        came = connection.wait(*request["with"])
        self._idle.append(connection)  # one that failed is not used again
        return came

    def _answer(self, request: dict[str, Any], perform: Any) -> None:
        try:
            answer = {"id": request["id"], "value": perform(request)}
        except Exception as error:  # noqa: BLE001  # whatever it is, the watchdog goes on without
            answer = {"id": request["id"], "error": f"{type(error).__name__}: {error}"[:500]}
        with self._lock, contextlib.suppress(BrokenPipeError):
            data = json.dumps(answer).encode() + b"\n"
            while data:
                data = data[os.write(self._output, data) :]


def main() -> None:
    """Serve until standard input ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Whatever a library prints is no answer of ours.
    output = os.dup(1)
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.nice(5)
    Helper(output).run()
    os._exit(0)  # not after threads that wait for a store


if __name__ == "__main__":
    main()
