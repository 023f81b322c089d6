"""A torchrun job on several nodes of a network, each under a watchdog of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from .command import TIMERS, Cli
from .processes import VICTIMS
from .waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .network import Network

__all__ = ["TRAIN", "Nodes"]

TRAIN = VICTIMS / "fleet_train.py"
SECONDS = 240.0


class Nodes:
    """Starts ``torchrun`` on each node of a network, with ``fleet_train.py``.

    :param directory: an empty one, shared by the nodes.
    :param per_node: ranks on a node.
    """

    def __init__(self, network: Network, directory: Path, *, per_node: int = 1) -> None:
        self.network = network
        self.directory = directory
        self.per_node = per_node
        self.cli = Cli(directory)
        self.stuck = directory / "stuck"
        """When it is there, the culprit gets stuck."""
        self.processes: list[subprocess.Popen[bytes]] = []

    def events_file(self, node: int) -> Path:
        """Where a node's events are."""
        return self.directory / f"node{node}.jsonl"

    def start(
        self,
        culprit: int,
        *,
        step_after: float = 2.0,
        fetch_after: float = 0.0,
        options: tuple[str, ...] = (),
        without_watchdog: tuple[int, ...] = (),
        restarts: int = 1,
        store_in_agent: bool = False,
    ) -> None:
        """Start all nodes.

        :param store_in_agent: whether torchrun serves the store of the workers itself, as it does
            by default; then none of them can be restarted with gloo, see below.
        """
        count = len(self.network.nodes)
        train = (str(culprit), str(self.stuck), str(step_after), str(fetch_after))
        for node in range(count):
            torchrun = [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", str(count)),
                *("--nproc-per-node", str(self.per_node), "--max-restarts", str(restarts)),
                *("--rdzv-backend", "c10d", "--rdzv-id", "fleet-job", "--monitor-interval", "0.2"),
                *("--rdzv-endpoint", f"{self.network.address(0)}:29400"),
                *("--local-addr", self.network.address(node), str(TRAIN), *train),
            ]
            watchdog = [
                *(*TIMERS, "run", "--http", "off", "--events", str(self.events_file(node))),
                *(*options, "--"),
            ]
            command = torchrun if node in without_watchdog else [*watchdog, *torchrun]
            output = (self.directory / f"node{node}.out").open("wb")
            with output:
                self.processes.append(
                    subprocess.Popen(
                        [*self.network.on(node), *command],
                        env={
                            **self.cli.environment,
                            "GLOO_SOCKET_IFNAME": "eth0",
                            "OMP_NUM_THREADS": "1",
                            # Else one store is kept for all attempts, and gloo finds in it the
                            # addresses of the last one.
                            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": str(int(not store_in_agent)),
                        },
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    def output(self, node: int) -> str:
        """What a node has written so far."""
        return (self.directory / f"node{node}.out").read_text("utf-8", "replace")

    def events(self, node: int, name: str | None = None) -> list[dict[str, Any]]:
        """The events of a node so far, or those of one name."""
        path = self.events_file(node)
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if name in (None, event["event"])]

    def wait_until_joined(self, *nodes: int) -> None:
        """Wait until the watchdogs of these nodes can call each other."""
        for node in nodes:
            eventually(partial(self._has_joined, node), f"node {node} joins", SECONDS)

    def _has_joined(self, node: int) -> bool:
        if self.processes[node].poll() is not None:
            raise AssertionError(self.output(node))
        return any("takes part" in each["message"] for each in self.events(node, "notice"))

    def get_stuck(self) -> None:
        """Let the culprit get stuck."""
        self.stuck.touch()

    def wait(self) -> list[int]:
        """Wait for the end of all nodes; return what they exited with."""
        eventually(
            lambda: all(process.poll() is not None for process in self.processes),
            "the end of the job",
            SECONDS,
        )
        return [process.returncode for process in self.processes]

    def close(self) -> None:
        """End what is still there."""
        for pid in self.cli.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.kill()
            process.wait()
        eventually(lambda: not self.cli.processes(), "the processes of the job are gone")

    @contextlib.contextmanager
    def running(self, **options: Any) -> Iterator[None]:
        """Start, and clean up in the end."""
        try:
            self.start(options.pop("culprit"), **options)
            yield
        finally:
            self.close()
            for node in range(len(self.processes)):
                print(f"--- node {node}\n{self.output(node)}")  # shown when the test failed
