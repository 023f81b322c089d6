"""``timers top``: ask a service what is running, and show how close to its deadline that is.

Decision: rich draws the table. It knows terminals, and keeping up with them is its maintainers'
work and not ours.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from observability.http.address import Address
from observability.untrusted import printable, replaced
from timers.server.statistics import NEAR_MISS

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 64 * 1024 * 1024
_LATE = 1.0
_SHOWN_REAPS = 5
_OTHER_LINES = 8


class ServiceError(Exception):
    """No answer that could be used; the message says from where and why."""


def service_url(text: str) -> str:
    """Make the base URL of a service from a URL or ``HOST:PORT``.

    :raises ValueError: it is neither.
    """
    if "://" not in text:
        return f"http://{Address.parse(text)}"
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r}: must be HOST:PORT or a URL of http or https")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def fetch(url: str, limit: int, *, token: str | None, ca_file: str | None) -> dict[str, Any]:
    """The answer of ``/timers``.

    :param url: of :func:`service_url`.
    :param ca_file: PEM file with the authority that signed the service's certificate, when it is
        none of the system's.
    :raises ServiceError: the service cannot be reached, refuses, or answers something else.
    """
    request = urllib.request.Request(f"{url}/timers?limit={limit}")  # noqa: S310  # service_url() checked the scheme
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_file))
        ]
        if Address(urllib.parse.urlsplit(url).hostname or "", 0).is_loopback:
            # A proxy would look for the service on its own machine.
            handlers.append(urllib.request.ProxyHandler({}))
        opener = urllib.request.build_opener(*handlers)
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
            answer = json.loads(response.read(_MAX_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(200).decode("utf-8", "replace").strip().partition("\n")[0]
        reason = printable(f"{error.code} {error.reason}: {body}")
        raise ServiceError(f"{url}: {reason}") from None
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        reason = printable(str(getattr(error, "reason", error)))
        raise ServiceError(f"{url}: {reason}") from None
    if not isinstance(answer, dict) or "timers" not in answer:
        raise ServiceError(f"{url}: answers, but is no timer service")
    return answer


def show(ask: Callable[[int], dict[str, Any]]) -> None:
    """Print the whole table once. Raises what ``ask`` raises."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # for a file or a pipe, no guess of 80 columns
    console.print(render(ask(10_000)))


def show_live(ask: Callable[[int], dict[str, Any]], interval: float) -> None:
    """Show the table until Ctrl-C; as many rows as fit, those closest to their deadline.

    A service that cannot be reached is said, and asked again.
    """
    console = Console()
    live = Live(console=console, screen=console.is_terminal, auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), live:
        while True:
            rows = max(1, console.height - _SHOWN_REAPS - _OTHER_LINES)
            try:
                view = render(ask(rows))
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
