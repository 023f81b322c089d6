"""Start the ``timers`` command as a process of its own, and see that nothing of it is left."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from .processes import MARK, VICTIMS, marked
from .waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["SUPERVISED", "TIMERS", "Cli", "get", "json_lines"]

TIMERS = [sys.executable, "-c", "from observability.cli.main import main; main(prog_name='timers')"]
SUPERVISED = [sys.executable, str(VICTIMS / "supervised.py")]
WAIT_SECONDS = 60


class Cli:
    """Runs ``timers`` in a clean environment, with a directory of its own for temporary files.

    :param directory: an empty one.
    """

    def __init__(self, directory: Path) -> None:
        self.temporary = directory / "tmp"
        self.temporary.mkdir(parents=True)
        self.mark = secrets.token_hex(16)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TIMERS_", "TORCHELASTIC_", "SLURM_", "OTEL_"))
        }
        self.state = directory / "state"
        self.environment = {
            **kept,
            "TMPDIR": str(self.temporary),
            "XDG_STATE_HOME": str(self.state),
            MARK: self.mark,
        }

    @contextlib.contextmanager
    def start(
        self, *arguments: object, env: Mapping[str, str] | None = None, **options: Any
    ) -> Iterator[subprocess.Popen[str]]:
        """Start ``timers ARGUMENTS``; kill it, if it is still there, when the block ends.

        stdin and stdout are pipes; ``options`` are those of ``Popen``.
        """
        keywords: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "text": True,
            **options,
        }
        process: subprocess.Popen[str] = subprocess.Popen(
            [*TIMERS, *map(str, arguments)],
            env={**self.environment, **(env or {})},
            **keywords,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def run(
        self, *arguments: object, env: Mapping[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run ``timers ARGUMENTS`` to its end."""
        with self.start(*arguments, env=env, stderr=subprocess.PIPE) as process:
            out, err = process.communicate(stdin, timeout=WAIT_SECONDS)
            return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def processes(self) -> list[int]:
        """The living processes that were started by this object, directly or not."""
        return marked(self.mark)

    def assert_nothing_left(self) -> None:
        """No process, no pipe, no temporary directory."""
        eventually(lambda: not self.processes(), "the processes are gone")
        assert list(self.temporary.iterdir()) == []


def get(
    address: str, path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, str, Mapping[str, str]]:
    """GET from a service that has no TLS: status, body, headers."""
    request = urllib.request.Request(f"http://{address}{path}", headers=dict(headers or {}))
    try:
        answer = urllib.request.urlopen(request, timeout=WAIT_SECONDS)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.read().decode(), answer.headers


def json_lines(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Every line as one JSON object; fails on one that is none."""
    parsed = [json.loads(line) for line in lines]
    assert all(isinstance(line, dict) for line in parsed)
    return parsed
