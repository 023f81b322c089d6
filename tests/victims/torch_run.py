"""torchrun, unchanged but for the timer server of its agent, which also writes a report.

Arguments: whose server ("ours" or "torch"), the file of the report, then torchrun's own. The
report is one JSON object a line, written whenever the agent stops a server of its own.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timers

if TYPE_CHECKING:
    from collections.abc import Callable

# By name: PyTorch is an optional dependency, also of the type checker.
run: Any = importlib.import_module("torch.distributed.run")
torch_timer: Any = importlib.import_module("torch.distributed.elastic.timer")
agent: Any = importlib.import_module("torch.distributed.elastic.agent.server.local_elastic_agent")

WHOSE, REPORT, *ARGUMENTS = sys.argv[1:]
BASE: Any = {"ours": timers, "torch": torch_timer}[WHOSE].FileTimerServer

alive_callbacks: list[Callable[[], int]] = []


class ReportingServer(BASE):  # type: ignore[misc]  # the base is the caller's choice
    """Says what it did."""

    def __init__(self, *args: Any, log_event: Callable[[str, Any], None], **options: Any) -> None:
        self.reported: list[str] = []

        def tell(name: str, request: Any) -> None:
            log_event(name, request)
            self.reported.append(name)

        super().__init__(*args, log_event=tell, **options)

    def stop(self) -> None:
        alive = [callback() for callback in alive_callbacks]
        self.run_once()  # serves what lies in the pipe, in either library
        super().stop()
        report = {"requests": self._request_count, "told": self.reported, "alive": alive}
        with Path(REPORT).open("a") as file:
            file.write(json.dumps(report) + "\n")


class HealthCheck:
    """In the place of torch's health check server, which is empty: keeps the agent's callback."""

    def __init__(self, alive_callback: Callable[[], int], **_: Any) -> None:
        alive_callbacks[:] = [alive_callback]

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""


if __name__ == "__main__":
    # The agent looks both up when it needs them.
    torch_timer.FileTimerServer = ReportingServer
    agent.create_healthcheck_server = HealthCheck
    run.main(ARGUMENTS)
