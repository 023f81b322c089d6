"""Hours of history in a real Prometheus: what each query of the dashboards costs for one host.

What a dashboard reads when it is opened is hours of each series, which :mod:`.watching` cannot
wait for. So a few hosts are made up to have them: each repeats what a real service has answered,
with counters that grow, written to blocks by promtool. Nothing is scraped meanwhile. What a query
takes grows with the series it touches: the last column is for as many hosts as :mod:`.watching`
has, by multiplication, and not measured.

``python -m tests.benchmarks.history [HOSTS [HOURS]]``, from the top of the tree.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .machine import description
from .watching import INTERVAL, SHOWN, TARGETS, TOP, TRIES, run_of, took

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOSTS, HOURS = 40, 6.0
DASHBOARD = TOP / "dashboards" / "timers-fleet.json"
_SETTLES_SECONDS = 45.0
"""Until everything has happened in the services that are copied."""
_GROW = ("_total", "_bucket", "_sum", "_count")
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")


class _Series(NamedTuple):
    labels: str
    value: float


def _copied(directory: Path) -> list[dict[str, list[_Series]]]:
    """Return what real services answer, each by metric."""
    from support.monitoring.scenario import trouble

    found = []
    with trouble(directory) as seen:
        time.sleep(_SETTLES_SECONDS)
        for address in seen.services.values():
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            metrics: dict[str, list[_Series]] = {}
            for line in lines:
                parts = _SAMPLE.fullmatch(line)
                if parts is not None:
                    series = _Series(parts[2] or "", float(parts[3]))
                    metrics.setdefault(parts[1], []).append(series)
            found.append(metrics)
    return found


def _written(
    hosts: int, moments: range, copied: Sequence[dict[str, list[_Series]]]
) -> Iterator[str]:
    """Yield the history as OpenMetrics, which wants all of one metric together."""
    for metric in dict.fromkeys(name for each in copied for name in each):
        yield f"# TYPE {metric} unknown\n"
        for host in range(hosts):
            for series in copied[host % len(copied)].get(metric, ()):
                yield from _samples(metric, host, series, moments)
    yield "# EOF\n"


def _samples(metric: str, host: int, series: _Series, moments: range) -> Iterator[str]:
    labels = re.sub('run_id="[^"]*"', f'run_id="{run_of(host)}"', series.labels)
    head = f'{metric}{{{labels}{"," * bool(labels)}job="timers",instance="gpu-{host}:9464"}}'
    for number, moment in enumerate(moments):
        value = series.value
        if metric == "timers_last_sweep_timestamp_seconds":
            value = moment - 1
        elif metric.endswith(_GROW):
            value += int(value * number / 1000)
        yield f"{head} {value!r} {moment}\n"


def measure(hosts: int, hours: float) -> Iterator[str]:
    """Make up so much history and ask for it; yields lines to be printed."""
    from support.monitoring.queries import Chosen, as_grafana_asks
    from support.monitoring.servers import prometheus
    from support.monitoring.tools import require

    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        end = int(time.time()) // INTERVAL * INTERVAL
        seconds = int(3600 * hours)
        moments = range(end - seconds, end + 1, INTERVAL)
        text, blocks, config = (directory / name for name in ("text", "blocks", "config.yml"))
        with text.open("w") as file:
            file.writelines(_written(hosts, moments, _copied(directory)))
        tool = require("promtool", "prometheus")
        importing = [tool, "tsdb", "create-blocks-from", "openmetrics", str(text), str(blocks)]
        subprocess.run(importing, check=True, stdout=subprocess.DEVNULL)
        text.unlink()
        config.write_text("{}")
        with prometheus(config, blocks) as watching:
            times = {
                asked: statistics.median(
                    took(watching.address, asked, end, seconds) for _ in range(TRIES)
                )
                for asked in as_grafana_asks(DASHBOARD, Chosen(), seconds)
            }
        yield f"{hosts} hosts, {hours:g} hours, {DASHBOARD.name}, the slowest queries:"
        for asked in sorted(times, key=lambda each: -times[each])[: 2 * SHOWN]:
            many = times[asked] * TARGETS / hosts
            how = "once" if asked.is_instant else f"every {asked.step} s"
            yield f"  {times[asked]:.3f} s, so {many:.1f} s for {TARGETS:,}: {asked.panel}, {how}"


def main() -> None:
    """Measure, and print a line for each figure."""
    hosts = int(sys.argv[1]) if len(sys.argv) > 1 else HOSTS
    hours = float(sys.argv[2]) if len(sys.argv) > 2 else HOURS
    print(description())
    for line in measure(hosts, hours):
        print(line, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(TOP / "tests"))
    main()
