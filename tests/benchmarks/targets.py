"""What was asked for, beside what was measured, all in the same run.

Figures, not tests: a machine that is slow or shared misses more than the program does. A line with
nothing asked explains the one above it.

The cost of a block is divided by two bare writes of the same bytes into the same pipe, read by the
same server meanwhile; the line below it says what comes of dividing by writes that nobody waits
for, which cost less because nobody has to be woken.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from . import boards, fairness, growth, idle, lateness, ours, server, starting
from .bursts import DEEP, SHALLOW
from .cost import CPU
from .hosts import METRICS, SERVICE
from .table import find, quantile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .effort import Effort
    from .table import Row

__all__ = ["NEEDED", "Target", "as_json", "as_markdown", "as_text", "targets"]

NEEDED = ("cost", "server", "boards", "lateness", "fairness", "growth", "starting", "idle")
"""The benchmarks that these are taken from."""
_NAMED = ours.title("File", "named", SHALLOW)
_ON_BOARD = ours.title("Socket", "named", SHALLOW)
_TORCH_FILE = ours.title("torch File", "named", SHALLOW)
_TORCH_LOCAL = ours.title("torch Local, mp.Queue", "named", SHALLOW)


class Target(NamedTuple):
    """One line of the table."""

    what: str
    measured: float
    unit: str
    """Of both figures; "x" for a ratio."""
    limit: float | None = None
    """None for a line that only explains."""
    at_least: bool = False

    @property
    def asked(self) -> str:
        """The limit, in words."""
        if self.limit is None:
            return ""
        return f"at {'least' if self.at_least else 'most'} {_figure(self.limit, self.unit)}"

    @property
    def verdict(self) -> str:
        """Whether it was met, in a word; empty when nothing was asked."""
        if self.limit is None:
            return ""
        met = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return "met" if met else "missed"


def targets(rows: Mapping[str, Sequence[Row]], effort: Effort) -> Iterator[Target]:
    """Yield the targets for the rows of the benchmarks in :data:`NEEDED`, by name."""
    yield from _cost(rows["cost"])
    yield from _cost_on_boards(rows["cost"])
    yield from _server(rows["server"])
    yield from _boards(rows["boards"], effort)
    yield from _lateness(rows["lateness"])
    yield from _fairness(rows["fairness"])
    yield from _growth(rows["growth"], effort)
    beyond = find(rows["starting"], starting.OURS).median * 1e3
    yield Target("import timers, beyond a bare interpreter", beyond, "ms", 30)
    asked = find(rows["idle"], idle.ASKED).median
    for who in (idle.ALONE, idle.WITH_WORKERS):
        row = find(rows["idle"], idle.title(idle.WAKE_UPS, who))
        yield Target(f"an idle service's {row.name}", row.median, "/s", asked)


def _ratio(rows: Sequence[Row], name: str, base: str) -> float:
    return find(rows, name).median / find(rows, base).median


def _cost(rows: Sequence[Row]) -> Iterator[Target]:
    ratio = partial(_ratio, rows)
    named = "with expires(after, scope) over the pipe"
    yield Target(f"{named} / {ours.FLOOR}", ratio(_NAMED, ours.FLOOR), "x", 3)
    yield Target(f"... / {ours.FLOOR_UNREAD}", ratio(_NAMED, ours.FLOOR_UNREAD), "x")
    yield Target("... the first, in CPU time", ratio(CPU + _NAMED, CPU + ours.FLOOR), "x")
    yield Target(f"... / {ours.LEAST}", ratio(_NAMED, ours.LEAST), "x")
    yield Target(f"{ours.LEAST} / the same floor", ratio(ours.LEAST, ours.FLOOR), "x")
    if any(row.name == _TORCH_FILE for row in rows):
        cheaper = ratio(_TORCH_FILE, _NAMED)
        yield Target("torch's File pair / the same over our pipe", cheaper, "x", 8, at_least=True)
        cpu = ratio(CPU + _NAMED, CPU + _TORCH_LOCAL)
        yield Target("CPU in all: over our pipe / torch's Local pair", cpu, "x", 1)
    for depth in (SHALLOW, DEEP):
        default = ratio(ours.title("File", "default", depth), ours.title("File", "named", depth))
        yield Target(f"a default scope / a named one, stack depth {depth}", default, "x", 1.3)


def _cost_on_boards(rows: Sequence[Row]) -> Iterator[Target]:
    ratio = partial(_ratio, rows)
    named = "with expires(after, scope) on a board"
    yield Target(f"{named} / {ours.FLOOR}", ratio(_ON_BOARD, ours.FLOOR), "x", 1.5)
    yield Target(f"... / {ours.NOTHING}", ratio(_ON_BOARD, ours.NOTHING), "x")
    yield Target("... without the accelerator / with it", ratio(ours.IN_PYTHON, _ON_BOARD), "x")
    if any(row.name == _TORCH_FILE for row in rows):
        cheaper = ratio(_TORCH_FILE, _ON_BOARD)
        yield Target("torch's File pair / the same on a board", cheaper, "x", 20, at_least=True)
    default = ratio(ours.title("Socket", "default", SHALLOW), _ON_BOARD)
    yield Target("a default scope / a named one, on a board", default, "x", 1.2)
    alone = ratio(ours.ALONE + _NAMED, ours.ALONE + _ON_BOARD)
    yield Target("our pipe / a board, server asleep", alone, "x", 15, at_least=True)
    for prefix, when in ((ours.BUSY, "of other work"), (ours.ASLEEP, "of sleep")):
        yield Target(
            f"... each after a millisecond {when}",
            ratio(prefix + _NAMED, prefix + _ON_BOARD),
            "x",
        )
        yield Target(
            f"... a board / {ours.NOTHING}, likewise",
            ratio(prefix + _ON_BOARD, prefix + ours.NOTHING),
            "x",
        )
    stopped = ratio(ours.STOPPED + _ON_BOARD, _ON_BOARD)
    yield Target("a block on a board, server stopped / server running", stopped, "x", 1.1)


def _boards(rows: Sequence[Row], effort: Effort) -> Iterator[Target]:
    yield Target(boards.MILLION, find(rows, boards.MILLION).median * 1e3, "ms", 10)
    yield Target(boards.BUSY, find(rows, boards.BUSY).median * 100, "%", 1)
    late = quantile(find(rows, boards.LATE).samples, 0.99) * 1e3
    yield Target(f"p99 {boards.LATE}", late, "ms", 5)
    few, many = boards.crowds(effort)
    for crowd, limit in ((few, 1), (many, None)):
        name = boards.title(boards.PASS, crowd)
        yield Target(name, find(rows, name).median * 1e3, "ms", limit)
    name = boards.title(boards.NOTICED, many)
    yield Target(f"p99 {name}", quantile(find(rows, name).samples, 0.99) * 1e3, "ms")


def _server(rows: Sequence[Row]) -> Iterator[Target]:
    rate = find(rows, server.per_cpu_second(METRICS)).median
    yield Target("requests on one core, metrics on", rate, "/s", 400_000, at_least=True)
    rate = find(rows, server.sustained(METRICS)).median
    yield Target("... from a full pipe, by the clock on the wall", rate, "/s")
    parse = find(rows, server.PARSE).median
    bare = "the bare parse (json.loads)"
    yield Target(f"... of {bare}, for comparison", 1 / parse, "/s")
    yield Target(
        f"CPU of a request, metrics on / {bare}", find(rows, METRICS).median / parse, "x", 3
    )
    yield Target(f"... {SERVICE}", find(rows, SERVICE).median / parse, "x")


def _lateness(rows: Sequence[Row]) -> Iterator[Target]:
    for kind, moments, limit in (
        (lateness.DEFAULT, (lateness.NOTICED, lateness.SIGNAL, lateness.DEATH), 5.0),
        (lateness.NO_DUMP, (lateness.SIGNAL, lateness.DEATH), None),
        (lateness.SERVE, (lateness.DEATH,), None),
    ):
        for machine in (lateness.IDLE, lateness.LOADED):
            for moment in moments:
                row = find(rows, lateness.title(moment, kind, machine))
                p99 = quantile(row.samples, 0.99) * 1e3
                yield Target(f"p99 of lateness, {row.name}", p99, "ms", limit)


def _fairness(rows: Sequence[Row]) -> Iterator[Target]:
    beside = "of eight stuck workers beside 64 at full speed"
    for name, how in fairness.KINDS.items():
        late = quantile(find(rows, fairness.title(fairness.NOTICED, name)).samples, 0.99) * 1e3
        missed = find(rows, fairness.title(fairness.MISSED, name)).median
        yield Target(f"p99 of lateness {beside}, {how}", late, "ms", 100)
        yield Target(f"never noticed {beside}, {how}", missed, "", 0)


def _growth(rows: Sequence[Row], effort: Effort) -> Iterator[Target]:
    size = growth.largest(effort)
    for what in growth.OPERATIONS:
        many, few = (find(rows, growth.title(what, n)).median for n in (size, growth.REFERENCE))
        yield Target(f"{what}, {size:,} timers / {growth.REFERENCE:,}", many / few, "x", 2)
    yield Target("memory of one timer", find(rows, growth.memory(effort)).median, "B", 500)


def _figure(figure: float, unit: str) -> str:
    if unit == "x":
        return f"{figure:.3g}x"
    return f"{figure:,.0f} {unit}" if figure >= 100 else f"{figure:.3g} {unit}"


def _cells(found: Sequence[Target]) -> list[tuple[str, str, str, str]]:
    return [
        (each.what, each.asked, _figure(each.measured, each.unit), each.verdict) for each in found
    ]


_HEADINGS = ("target", "asked", "measured", "")


def as_text(found: Sequence[Target]) -> str:
    """For the terminal."""
    cells = [_HEADINGS, *_cells(found)]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def as_markdown(found: Sequence[Target]) -> str:
    """For a README."""
    rows = [_HEADINGS, ("---",) * 4, *_cells(found)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def as_json(found: Sequence[Target]) -> str:
    """On one line."""
    return json.dumps(
        {
            "title": "Targets",
            "targets": [{**each._asdict(), "verdict": each.verdict} for each in found],
        }
    )
