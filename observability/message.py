"""An event in one sentence for a person, made of its flat fields.

Fields that are not known are left out of the sentence, so that an event of a server of somebody's
own, or a line of another version, has one as well. What an event says itself stands.
"""

from __future__ import annotations

import signal as signals
from typing import TYPE_CHECKING, Any

from .untrusted import items, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["deed", "message", "seconds", "who"]


def message(fields: Mapping[str, Any]) -> str:
    """Return the sentence of an event, one line without control characters.

    :param fields: those of :func:`observability.fields.to_fields`; only ``event`` must be there.
    """
    own = fields.get("message")
    if own:
        return printable(str(own))
    write = _SENTENCES.get(fields["event"])
    text = str(fields["event"]) if write is None else write(fields)
    text = text[:1].upper() + text[1:]
    return printable(text if text.endswith((".", "?", "!")) else f"{text}.")


def who(fields: Mapping[str, Any]) -> str:
    """Name the worker: ``rank 3 (pid 4711 on node7)``, with what is known."""
    pid, rank, host = fields.get("worker_pid"), fields.get("rank"), fields.get("host")
    on = f" on {host}" if host else ""
    name = fields.get("worker_name")
    if name:
        known = name if rank is None else f"rank {rank}, {name}"
        return f"{known} (pid {pid}{on})"
    if rank is None:
        return f"worker {'of unknown pid' if pid is None else pid}{on}"
    return f"rank {rank}" + (f" (pid {pid}{on})" if pid is not None else on)


def seconds(value: object) -> str:
    """Write a duration: ``0.42 s``, ``61.5 s``, ``7200 s``."""
    if not isinstance(value, (int, float)):
        return "an unknown time"
    return f"{value:.0f} s" if abs(value) >= 100 else f"{value:.3g} s"  # noqa: PLR2004 - 3 digits


def deed(fields: Mapping[str, Any]) -> str:
    """Say what was done to a worker that expired, and how late: for a kill or a failed one."""
    outcome, sent = fields.get("outcome"), _signal_name(fields.get("signal"))
    late = ""
    if "elapsed_seconds" in fields and "after_seconds" in fields:
        over = fields["elapsed_seconds"] - fields["after_seconds"]
        late = (
            f", {seconds(max(0.0, over))} after its deadline of {seconds(fields['after_seconds'])}"
        )
    said = {
        "killed": f"killed with {sent}{late}",
        "escalated": f"killed with SIGKILL, because it outlived {sent}{late}",
        "already_gone": f"gone by itself before it was killed{late}",
        "error": f"counted as reaped: the _reap_worker of its server raised{late}",
        "still_alive": f"still alive after SIGKILL{late}",
        "not_permitted": f"not killed, for the kernel did not permit it{late}",
    }.get(str(outcome), f"reaped{late}")
    others = fields.get("descendants")
    if others:
        said += f"; {len(others)} of its child processes with it"
    return said


def _signal_name(number: object) -> str:
    if isinstance(number, int) and number > 0:
        try:
            return signals.Signals(number).name
        except ValueError:
            return f"signal {number}"
    return "a signal"


def _scope(fields: Mapping[str, Any]) -> str:
    return str(fields.get("scope_id", "a block"))


def _count(number: object, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _started(fields: Mapping[str, Any]) -> str:
    at = f" at {fields['address']}" if "address" in fields else ""
    at += f" and {fields['socket']}" if "socket" in fields else ""
    page = f"; see {fields['url']}" if "url" in fields else ""
    return f"the watchdog watches timers{at}{page}"


def _stopped(fields: Mapping[str, Any]) -> str:
    still = fields.get("timers_open")
    left = f"; {_count(still, 'timer')} were open" if still and still > 1 else ""
    return f"the watchdog has stopped{'; 1 timer was open' if still == 1 else left}"


def _acquired(fields: Mapping[str, Any]) -> str:
    return (
        f"{who(fields)} entered {_scope(fields)} for at most {seconds(fields.get('after_seconds'))}"
    )


def _released(fields: Mapping[str, Any]) -> str:
    by = f" by {fields['error']}" if "error" in fields else ""
    return f"{who(fields)} left {_scope(fields)}{by} after {seconds(fields.get('elapsed_seconds'))}"


def _overran(fields: Mapping[str, Any]) -> str:
    deadline = seconds(fields.get("after_seconds"))
    return f"{_still_in(fields)}, longer than expected; its deadline is {deadline}"


def _expired(fields: Mapping[str, Any]) -> str:
    only = ""
    if isinstance(fields.get("signal"), int) and fields["signal"] <= 0:
        only = "; it is only observed"
    return f"{_still_in(fields)}, past its deadline of {seconds(fields.get('after_seconds'))}{only}"


def _still_in(fields: Mapping[str, Any]) -> str:
    took = fields.get("elapsed_seconds")
    return f"{who(fields)} is still in {_scope(fields)}" + (
        f" after {seconds(took)}" if took is not None else ""
    )


def _dumped(fields: Mapping[str, Any]) -> str:
    if "frame" in fields:
        return f"{who(fields)} was at {fields['frame']}"
    why = str(fields.get("stack_error", "")).partition("\n")[0]
    return f"where {who(fields)} was is not known" + (f": {why}" if why else "")


def _reported(fields: Mapping[str, Any]) -> str:
    return str(fields.get("sentence") or "nothing is known of who holds up the others")


def _killed(fields: Mapping[str, Any]) -> str:
    """Tell the whole story: who, in which block, what was done, where it was, and why."""
    at = f" at {fields['frame']}" if "frame" in fields else ""
    why = f". {fields['sentence']}" if fields.get("sentence") else ""
    return f"{who(fields)} overran {_scope(fields)}{at} and was {deed(fields)}{why}"


def _failed(fields: Mapping[str, Any]) -> str:
    again = fields.get("retry_in_seconds")
    after = f"; tried again in {seconds(again)}" if again is not None else ""
    at = f" at {fields['frame']}" if "frame" in fields else ""
    return f"{who(fields)} overran {_scope(fields)}{at} and was {deed(fields)}{after}"


def _exited(fields: Mapping[str, Any]) -> str:
    how = "ended"
    if "exit_signal" in fields:
        how = f"was ended by {_signal_name(fields['exit_signal'])}"
    elif "exit_code" in fields:
        how = f"ended with exit code {fields['exit_code']}"
    inside = ""
    if fields.get("timers_open"):
        inside = (
            f" inside {_scope(fields)}, {seconds(fields.get('elapsed_seconds'))} after it began"
        )
    return f"{who(fields)} {how}{inside}"


def _rejected(fields: Mapping[str, Any]) -> str:
    sender = f" of pid {fields['worker_pid']}" if "worker_pid" in fields else ""
    detail = f": {fields['detail']}" if "detail" in fields else ""
    return f"a request{sender} was refused ({fields.get('reason', 'unknown')}){detail}"


def _durations(fields: Mapping[str, Any]) -> str:
    scopes = items(fields.get("scopes"), dict)
    if len(scopes) != 1:
        return f"how long the blocks of {len(scopes)} scopes took"
    steady, first = (scopes[0].get(part) or {} for part in ("steady", "warm_up"))
    number = steady.get("count", 0) + first.get("count", 0)
    longest = max(steady.get("max_seconds", 0.0), first.get("max_seconds", 0.0))
    return f"{_count(number, 'block')} of {scopes[0].get('scope_id')} took up to {seconds(longest)}"


def _finished(fields: Mapping[str, Any]) -> str:
    return (
        f"the command exited with {fields.get('exit_code', 'an unknown status')} after"
        f" {seconds(fields.get('elapsed_seconds'))}: {_count(fields.get('acquires', 0), 'timer')}"
        f" acquired, {fields.get('expirations', 0)} expired,"
        f" {_count(fields.get('reaps', 0), 'worker')} reaped"
    )


def _stalled(fields: Mapping[str, Any]) -> str:
    still = f"nothing has moved for {seconds(fields.get('stalled_seconds'))}"
    return f"{still}: {fields['sentence']}" if fields.get("sentence") else still


def _moves_again(fields: Mapping[str, Any]) -> str:
    return f"the job moves again, after {seconds(fields.get('stalled_seconds'))} without progress"


_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "watchdog started": _started,
    "watchdog stopped": _stopped,
    "timer acquired": _acquired,
    "timer released": _released,
    "timer warning": _overran,
    "timer expired": _expired,
    "stack dumped": _dumped,
    "hang report": _reported,
    "job stalled": _stalled,
    "job moves again": _moves_again,
    "kill worker process": _killed,
    "reap failed": _failed,
    "worker exited": _exited,
    "request rejected": _rejected,
    "scope durations": _durations,
    "run finished": _finished,
}
