"""``timers top``: what is running and how close to its deadline, in the terminal.

Decision: rich draws the table. It knows terminals, and keeping up with them is its maintainers'
work and not ours.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from observability.untrusted import printable, replaced
from timers.server.statistics import NEAR_MISS

from ._client import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

_LATE = 1.0
_SHOWN_REAPS = 5
_OTHER_LINES = 8


def show(fetch: Callable[[int], dict[str, Any]]) -> None:
    """Print the whole table once. Raises what ``fetch`` raises."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # for a file or a pipe, no guess of 80 columns
    console.print(render(fetch(10_000)))


def show_live(fetch: Callable[[int], dict[str, Any]], interval: float) -> None:
    """Show the table until Ctrl-C; as many rows as fit, those closest to their deadline.

    A service that cannot be reached is said, and asked again.
    """
    console = Console()
    live = Live(console=console, screen=console.is_terminal, auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), live:
        while True:
            rows = max(1, console.height - _SHOWN_REAPS - _OTHER_LINES)
            try:
                view = render(fetch(rows))
            except ServiceError as error:
                view = Group(Text(str(error), style="red"))
            live.update(view, refresh=True)
            time.sleep(interval)


def render(answer: dict[str, Any]) -> Group:
    """Lay out the answer of ``/timers``.

    :raises ServiceError: it is not that of a timer service.
    """
    try:
        return _render(replaced(answer, str, printable))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as e:
        raise ServiceError(f"the answer is not that of a timer service: {e!r}") from None


def _render(answer: dict[str, Any]) -> Group:
    totals = answer["totals"]
    shown, active = len(answer["timers"]), answer["active"]
    title = Text.assemble(
        ("run ", "dim"), answer["run_id"], ("  on ", "dim"), answer["host"], "   ",
        f"{answer['workers']} workers  {active} timers"
        + (f" ({shown} shown)" if shown < active else ""),
        f"   acquired {totals['acquires']}  expired {totals['expirations']}"
        f"  reaped {totals['reaps']}  rejected {totals['rejected']}",
    )  # fmt: skip
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("PID", "RANK", "AGE", "AFTER", "LEFT", "USED"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("SCOPE", overflow="fold")
    for timer in answer["timers"]:
        used = timer.get("used_ratio") or 0.0
        style = "bold red" if used >= _LATE else "yellow" if used >= NEAR_MISS else ""
        table.add_row(
            Text(str(timer["worker_pid"])),  # text is not searched for markup
            Text(str(timer.get("rank", ""))),
            _seconds(timer["age_seconds"]),
            _seconds(timer["after_seconds"]),
            _seconds(timer["remaining_seconds"]),
            f"{used:.0%}",
            Text(timer["scope_id"]),
            style=style,
        )
    return Group(title, table, *_reaps(answer["reaps"][:_SHOWN_REAPS]))


def _reaps(records: list[dict[str, Any]]) -> list[Text]:
    if not records:
        return []
    lines = [Text("last reaps", style="dim")]
    for record in records:
        rank = f" rank {record['rank']}" if "rank" in record else ""
        lines.append(
            Text.assemble(
                f"{record['timestamp'][:19]}Z  pid {record['worker_pid']}{rank}  ",
                (record.get("outcome", "not killed"), "bold"),
                f"  {record.get('scope_id', '')}  ",
                (record.get("frame", ""), "dim"),
            )
        )
    return lines


def _seconds(value: float) -> str:
    minutes, seconds = divmod(abs(value), 60)
    sign = "-" if value < 0 else ""
    if minutes >= 60:  # noqa: PLR2004  # an hour
        return f"{sign}{int(minutes // 60)}h{int(minutes % 60):02}m"
    return f"{sign}{int(minutes)}m{int(seconds):02}s" if minutes >= 1 else f"{sign}{seconds:.1f}s"
