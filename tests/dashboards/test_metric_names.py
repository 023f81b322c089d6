"""What is looked at exists, and what exists is looked at or documented."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dashboards.build import ALERTS, HERE, RECORDING
from observability import open_pipeline
from observability.sinks.metrics import Metrics
from timers.server.statistics import Statistics

if TYPE_CHECKING:
    from pathlib import Path

REPOSITORY = HERE.parent
LOOKED_AT = [*sorted(HERE.glob("*.json")), RECORDING, ALERTS]
DOCUMENTED = [HERE / "README.md", REPOSITORY / "observability" / "README.md"]
SERIES = re.compile(
    r"\b(timers_[a-z0-9_]+|process_[a-z_]+_(?:total|bytes|fds|seconds)|python_info)\b"
)


class Nobody:
    """A sink, so that there is one to count for."""

    name = "nobody"

    def __call__(self, event: object) -> None:
        """Take it."""


def exposed() -> tuple[set[str], set[str]]:
    """Names of series and of families on /metrics, of a service that has seen everything."""
    counts = Statistics()
    counts.scope("train_step").acquires += 1
    counts.dumped("py-spy", ok=True, seconds=0.01)
    counts.last_sweep = time.time()
    pipeline = open_pipeline(events=None, run_id="a-run", sinks=[Nobody()], spans=False)
    pipeline.watch(counts)
    text, _ = Metrics(pipeline).exposition()
    pipeline.close()
    families = list(text_string_to_metric_families(text.decode()))
    samples = {sample.name for family in families for sample in family.samples}
    return samples, {family.name for family in families}


def named(path: Path) -> set[str]:
    """Every name in a file that can only be that of one of our series."""
    recorded = set(re.findall(r"[a-z_]+:(?:[a-z0-9_]+:?)+", path.read_text()))
    text = re.sub(r"[a-z_]+:(?:[a-z0-9_]+:?)+", "", path.read_text())
    assert recorded or path not in (ALERTS, RECORDING)
    return set(SERIES.findall(text))


@pytest.mark.parametrize("path", [*LOOKED_AT, *DOCUMENTED], ids=lambda path: str(path.name))
def test_what_is_named_exists(path: Path) -> None:
    samples, families = exposed()
    assert named(path) <= samples | families


def test_what_exists_is_looked_at_or_documented() -> None:
    _, families = exposed()
    assert len(families) > 15
    text = "\n".join(path.read_text() for path in [*LOOKED_AT, *DOCUMENTED])
    assert [name for name in sorted(families) if name not in text] == []
