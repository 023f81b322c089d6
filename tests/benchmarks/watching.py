"""Thousands of services in a real Prometheus: series, memory, rules, the slowest panels.

What is scraped are the answers of a few real services with real workers, in which everything
happens that a panel can show. Each is served again and again as that of another host, with a run
of its own for every sixteen, and asked anew before each scrape so that counters grow. All of it
shares this machine, so that the times are upper bounds; there are minutes of history, not weeks.

Each query is asked as Grafana does: for the time range that a dashboard has when it is opened, of
which most is empty here, and for the minutes that there are, which shows them most finely.

``python -m tests.benchmarks.watching [TARGETS [MINUTES]]``, from the top of the tree.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import psutil

from .machine import description

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.monitoring.queries import Asked, Chosen

TOP = Path(__file__).resolve().parent.parent.parent
DASHBOARDS = ("timers-fleet.json", "timers-run.json")
RULES = ("timers-recording.yml", "timers-alerts.yml")
TARGETS, MINUTES = 2000, 5.0
HOSTS_OF_A_RUN = 16
INTERVAL = 15
"""Seconds between scrapes."""
TRIES = 3
"""How often each query is asked; its median counts."""
SHOWN = 4
"""How many of the slowest are printed."""


class _Hosts(BaseHTTPRequestHandler):
    """Answers ``/metrics/NUMBER`` as host NUMBER would."""

    answers: ClassVar[list[tuple[str, str]]] = []
    """Of the real services: run and metrics."""

    def do_GET(self) -> None:
        number = int(self.path.rpartition("/")[2])
        run, text = self.answers[number % len(self.answers)]
        data = text.replace(f'"{run}"', f'"{run_of(number)}"').encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


def run_of(number: int) -> str:
    return f"run-{number // HOSTS_OF_A_RUN}"


def _ask_again(services: dict[str, str], ended: threading.Event) -> None:
    from support.monitoring.scenario import RUNS

    runs = {host: run for host, run, _ in RUNS}
    while True:
        found = []
        for host, address in services.items():
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                found.append((runs[host], answer.read().decode()))
        _Hosts.answers = found
        if ended.wait(INTERVAL / 2):
            return


@contextlib.contextmanager
def _hosts(directory: Path) -> Iterator[int]:
    """Serve; yields the port."""
    from support.monitoring.scenario import trouble

    with trouble(directory) as seen, _Server(("127.0.0.1", 0), _Hosts) as server:
        ended = threading.Event()
        asking = threading.Thread(target=_ask_again, args=(seen.services, ended))
        asking.start()
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_port
        finally:
            ended.set()
            asking.join()
            server.shutdown()
            serving.join()


def _config(port: int, targets: int) -> str:
    rules = [str(TOP / "dashboards" / name) for name in RULES]
    return json.dumps(  # which is YAML as well
        {
            "global": {
                "scrape_interval": f"{INTERVAL}s",
                "evaluation_interval": f"{INTERVAL}s",
            },
            "rule_files": rules,
            "scrape_configs": [
                {
                    "job_name": "timers",
                    "static_configs": [
                        {
                            "targets": [f"127.0.0.1:{port}"],
                            "labels": {
                                "__metrics_path__": f"/metrics/{number}",
                                "instance": f"gpu-{number}:9464",
                            },
                        }
                        for number in range(targets)
                    ],
                }
            ],
        }
    )


def took(address: str, asked: Asked, end: float, seconds: int) -> float:
    """Ask as Grafana would for a panel of so many seconds; seconds until the answer is here."""
    path, moments = "query", {"time": str(end)}
    if not asked.is_instant:
        path, step = "query_range", int(asked.step)
        first, last = ((end - before) // step * step for before in (seconds, 0))
        moments = {"start": str(first), "end": str(last), "step": asked.step}
    parameters = urllib.parse.urlencode({"query": asked.expr, **moments})
    began = time.perf_counter()
    with urllib.request.urlopen(f"{address}/api/v1/{path}?{parameters}", timeout=300) as answer:
        json.load(answer)
    return time.perf_counter() - began


def _slowest(address: str, path: Path, chosen: Chosen, seconds: int) -> Iterator[str]:
    """Ask for all that a dashboard shows; yields lines about the slowest."""
    from support.monitoring.queries import as_grafana_asks

    end = time.time()
    times = {
        asked: statistics.median(took(address, asked, end, seconds) for _ in range(TRIES))
        for asked in as_grafana_asks(path, chosen, seconds)
    }
    yield f"{path.name}, the last {seconds:,} s, {len(times)} queries, the slowest:"
    for asked in sorted(times, key=lambda each: -times[each])[:SHOWN]:
        how = "once" if asked.is_instant else f"every {asked.step} s"
        yield f"    {times[asked]:.2f} s, {asked.panel}, {how}: {asked.expr}"


def measure(targets: int, minutes: float) -> Iterator[str]:
    """Watch so many for so long; yields lines to be printed."""
    from support.monitoring.queries import Chosen, opened_seconds
    from support.monitoring.servers import prometheus

    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(_hosts(directory))
        config = directory / "prometheus.yml"
        config.write_text(_config(port, targets))
        watching = stack.enter_context(prometheus(config, directory / "data"))
        process = psutil.Process(watching.pid)
        time.sleep(minutes * 30)
        cpu, began = sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(minutes * 30)
        share = (sum(process.cpu_times()[:2]) - cpu) / (time.monotonic() - began)

        def value(expr: str) -> float:
            return float(watching.query(expr)[0]["value"][1])

        yield f"{targets:,} targets, of which {value('sum(up)'):,.0f} were scraped"
        series = value('count({job="timers"})')
        yield f"series                  {series:10,.0f}"
        yield f"memory of Prometheus    {process.memory_info().rss / 2**20:10,.0f} MiB"
        yield f"CPU of Prometheus       {100 * share:10.0f} % of one core"
        every = Chosen()
        # As Grafana does it where one run is chosen: "All" hosts are those of it, by name.
        found = watching.query(f'timers_run_info{{run_id="{run_of(0)}"}}')
        hosts = "|".join(each["metric"]["instance"] for each in found)
        one = replace(every, run_id=run_of(0), hosts=f"({hosts})")
        for name, chosen in zip(DASHBOARDS, (every, one), strict=True):
            path = TOP / "dashboards" / name
            for seconds in (opened_seconds(path), int(60 * minutes)):
                yield from _slowest(watching.address, path, chosen, seconds)


def main() -> None:
    """Measure, and print a line for each figure."""
    targets = int(sys.argv[1]) if len(sys.argv) > 1 else TARGETS
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else MINUTES
    print(description())
    for line in measure(targets, minutes):
        print(line, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(TOP / "tests"))
    main()
