"""Ports that are taken, clients that stall, collectors that do not collect."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from observability.settings import DEFAULT_ADDRESS

from .fault import Fault, Weaker
from .promises import GOES_ON, TOLD, told_in_the_log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .observation import Observation
    from .stage import Stage

__all__ = ["FAULTS"]

STUCK_CLIENTS = 100
"""More than the service keeps."""


class PortTaken(Fault):
    name = "the HTTP port is taken"

    def __init__(self) -> None:
        self.weaker = {GOES_ON: Weaker("yes, at another port, which is said", self._goes_on)}

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        taken: list[socket.socket] = []

        def take() -> bool:
            with contextlib.suppress(OSError):  # some other test has it at this moment
                taken.append(socket.create_server(DEFAULT_ADDRESS))
            return bool(taken)

        assert stage.wait(take)
        stage.http = ()
        with taken[0]:
            yield

    def _goes_on(self, seen: Observation) -> None:
        GOES_ON.check(seen)
        said = [notice["message"] for notice in seen.named("notice")]
        assert any(f"{DEFAULT_ADDRESS} is taken" in message for message in said)


class StuckClients(Fault):
    """Half of them never finish their request, the others never read their answers."""

    name = "HTTP clients that stall (slowloris)"

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        del stage
        with contextlib.ExitStack() as self._ends:
            yield

    def strike(self, stage: Stage) -> None:
        host, _, port = stage.address.partition(":")
        for number in range(STUCK_CLIENTS):
            client = socket.create_connection((host, int(port)), timeout=60)
            self._ends.enter_context(client)
            request = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
            with contextlib.suppress(ConnectionError):  # it had to make room for another one
                client.sendall(request if number % 2 else (request + b"\r\n") * 100)

    def relieve(self, stage: Stage) -> None:
        del stage
        self._ends.close()


class NoCollector(Fault):
    """Nobody listens where the spans go."""

    name = "the OTLP collector is down"
    _listens = False

    def __init__(self) -> None:
        self.weaker = {TOLD: Weaker("in the log; lost spans are counted", self._told)}

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        with socket.socket() as collector:
            collector.bind(("127.0.0.1", 0))
            if self._listens:
                collector.listen()
            host, port = collector.getsockname()
            stage.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://{host}:{port}"
            stage.environment["OTEL_EXPORTER_OTLP_TIMEOUT"] = "1"
            yield

    def relieve(self, stage: Stage) -> None:
        # Each span has been tried by then.
        stage.wait(lambda: self._lost(stage) == _spans(stage.seen))

    def _lost(self, stage: Stage) -> float:
        stage.seen.metrics = stage.metrics()
        return stage.seen.count("timers_events_dropped_total", sink="spans")

    def _told(self, seen: Observation) -> None:
        told_in_the_log(seen)
        lost = seen.count("timers_events_dropped_total", sink="spans")
        assert lost == _spans(seen)
        assert seen.count("timers_events_dropped_total") == lost
        assert seen.count("timers_sink_errors_total") == 0


def _spans(seen: Observation) -> int:
    """Return how many there are: one of each block, and one of each worker, which do not trace."""
    stuck = len((seen.first, seen.second))
    return seen.bystander.blocks + stuck + len((seen.first, seen.second, seen.bystander))


class HangingCollector(NoCollector):
    """It accepts connections and never answers."""

    name = "the OTLP collector hangs"
    _listens = True


FAULTS: list[Fault] = [PortTaken(), StuckClients(), NoCollector(), HangingCollector()]
