"""How a run ended in which no timer expired: what there is to say of a job that just failed."""

from __future__ import annotations

from typing import Any

from observability.untrusted import number, printable

_SHOWN = 8


class Ending:
    """Takes note of the end of the command and of workers that ended badly by themselves."""

    def __init__(self) -> None:
        self._finished: dict[str, Any] = {}
        self._failed: dict[str, None] = {}
        self._more = 0

    def take(self, event: dict[str, Any]) -> None:
        """Take note of ``event``, if it is about an end."""
        if event["event"] == "run finished":
            self._finished = event
        elif event["event"] == "worker exited" and _how(event) is not None:
            if len(self._failed) < _SHOWN:
                self._failed.setdefault(f"{_who(event)} {_how(event)}")
            else:
                self._more += 1

    def render(self) -> str:
        """Return a line for each end; empty when nothing is known."""
        lines = list(self._failed)
        if self._more:
            lines.append(f"... and {self._more} more")
        code = number(self._finished.get("exit_code"))
        if code is not None:
            took = number(self._finished.get("elapsed_seconds"))
            after = "" if took is None else f" after {took:.1f} s"
            lines.append(f"The command exited with {code:g}{after}.")
        return "\n".join(lines)


def _how(event: dict[str, Any]) -> str | None:
    """How a worker ended, if that was no good end."""
    signal, code = number(event.get("exit_signal")), number(event.get("exit_code"))
    if signal:
        how = f"was ended by signal {signal:g}"
    elif code:
        how = f"exited with {code:g}"
    else:
        return None
    scope = event.get("scope_id")
    return f"{how} inside of scope {printable(scope)}" if isinstance(scope, str) else how


def _who(event: dict[str, Any]) -> str:
    rank, pid, host = (event.get(name) for name in ("rank", "worker_pid", "host"))
    where = printable(f"pid {pid} on {host}" if host else f"pid {pid}")
    return f"Worker {where}" if number(rank) is None else f"Rank {number(rank):g} ({where})"
