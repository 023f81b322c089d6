"""Prometheus and Alertmanager as they are, on ports that the kernel chose."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from support.waiting import eventually

from .tools import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Prometheus", "alertmanager", "listening_port", "prometheus"]


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    address: str
    pid: int

    def api(self, path: str, **parameters: str) -> Any:
        """Ask the HTTP API; an error of the server fails the test with the server's words."""
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.read().decode()} for {parameters}") from error

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Evaluate ``expr`` now."""
        found: list[dict[str, Any]] = self.api("query", query=expr)["result"]
        return found


def listening_port(process: subprocess.Popen[bytes]) -> int:
    """The port that ``process`` listens on, for servers that do not say it."""

    def ask() -> int:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        sockets = psutil.Process(process.pid).net_connections("tcp")
        return next((each.laddr.port for each in sockets if each.status == "LISTEN"), 0)

    return eventually(ask, "a listening socket")


@contextlib.contextmanager
def prometheus(config: Path, data: Path, *more: str) -> Iterator[Prometheus]:
    """Run Prometheus with this configuration file until the block ends."""
    arguments = [
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        "--web.enable-lifecycle",
        *more,
    ]
    with _server(require("prometheus", "prometheus"), arguments) as (address, pid):
        yield Prometheus(address, pid)


@contextlib.contextmanager
def alertmanager(config: Path, data: Path) -> Iterator[str]:
    """Run Alertmanager with this configuration file; its address."""
    arguments = [
        f"--config.file={config}",
        f"--storage.path={data}",
        "--cluster.listen-address=",  # alone
    ]
    program = require("prometheus-alertmanager", "prometheus-alertmanager")
    with _server(program, arguments) as (address, _):
        yield address


@contextlib.contextmanager
def _server(program: str, arguments: Sequence[str]) -> Iterator[tuple[str, int]]:
    command = [program, *arguments, "--web.listen-address=127.0.0.1:0", "--log.level=error"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{listening_port(process)}"
        eventually(lambda: _ready(address), f"{program} ready")
        yield address, process.pid
    finally:
        process.kill()
        process.wait()


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
