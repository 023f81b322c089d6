"""Events for a person at a terminal: five lines for a reap, one for what else matters.

Each event that ends a reap has its story (:mod:`observability.story`), so what led to it is not
shown on its own; that is for ``-v``. No line is longer than the terminal is wide.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import click

from observability.events import ScopeDurations
from observability.hang.text import listed, name
from observability.hang.types import Verdict
from observability.message import deed, seconds
from observability.samples.frames import library_path
from observability.story import ExplainedDump, ExplainedFailure, ExplainedKill
from observability.untrusted import cut, printable
from timers.events import (
    ReapFailed,
    StackDumped,
    TimerExpired,
    WatchdogStarted,
    WatchdogStopped,
    WorkerExited,
    WorkerKilled,
)

if TYPE_CHECKING:
    from observability.hang.types import Group, HangReport
    from observability.story import Story
    from timers.events import Event

_NARROWEST, _WIDEST = 40, 160
_COLORS = {"error": "red", "warning": "yellow"}
_ACCUSED = (Verdict.ONE_SUSPECT, Verdict.SEVERAL_SUSPECTS)


class Screen:
    """Writes events for a terminal. Used by one thread.

    :param chatty: whether to show events that say nothing new to a person, too.
    """

    def __init__(self, *, colors: bool = True, chatty: bool = False) -> None:
        self._colors = colors
        self._chatty = chatty
        self._shown: HangReport | None = None

    def text(self, event: Event, fields: dict[str, Any], width: int, *, wanted: bool) -> str:
        """Return the lines for ``event`` with their newlines; empty for one that is not shown.

        :param fields: those of the event (:func:`observability.fields.to_fields`).
        :param width: of the terminal, in characters; brought into 40 to 160.
        :param wanted: whether the event was asked for by name.
        """
        width = min(max(width, _NARROWEST), _WIDEST)
        if isinstance(event, ExplainedKill | ExplainedFailure | ExplainedDump):
            return self._reap(event, event.story, fields, width)
        if not (wanted or self._chatty) and _says_nothing_new(event):
            return ""
        text = "timers: " + fields["message"]
        if "exception" in fields:
            text += "\n" + "\n".join(map(printable, fields["exception"].splitlines()))
        return self._styled(text, fg=_COLORS.get(event.level)) + "\n"

    def _reap(self, event: Event, story: Story, fields: dict[str, Any], width: int) -> str:
        done = _done(event, fields)
        hang = story.hang
        if (hang is not None and hang is self._shown) or getattr(event, "attempt", 1) > 1:
            # Another one of the same hang, whose story stands above.
            return _cut(f"timers: {done}", width) + "\n"
        self._shown = hang
        accused = hang is not None and hang.verdict in _ACCUSED
        head = _cut(f"timers: {_headline(hang, fields)}", width)
        lines = [self._styled(head, fg="red" if accused else "yellow", bold=True)]
        more = story.where or "-v shows every stack; --events FILE keeps them"
        for title, text in (
            ("at", _place(_line(story), width - 10)),
            ("while", _others(hang, width - 10)),
            ("done", done),
            ("more", more),
        ):
            label = self._styled(f"  {title:<6}  ", dim=True)
            lines.append(label + _cut(printable(text), width - 10))
        return "\n".join(lines) + "\n"

    def _styled(self, text: str, **how: Any) -> str:
        return click.style(text, **how) if self._colors else text


def _says_nothing_new(event: Event) -> bool:
    """Tell whether an event is part of a story that comes later, or of everyday life."""
    if isinstance(event, WorkerExited):
        return not event.timers
    if isinstance(event, TimerExpired):
        return event.timer.signal > 0
    if isinstance(event, WorkerKilled | ReapFailed):
        return False
    return event.name == "hang report" or isinstance(
        event, StackDumped | WatchdogStarted | WatchdogStopped | ScopeDurations
    )


def _headline(hang: HangReport | None, fields: dict[str, Any]) -> str:
    """Name who holds up the others, and how, without the places, which have lines of their own."""
    if hang is None:
        return f"{_who(fields)} overran {fields.get('scope_id')}"
    named = hang.suspects or hang.lagging
    if not named:
        return hang.sentence
    missed = named[0].holds_up if len(named) == 1 else ""
    text = listed([f"{name(each)} {each.why}" for each in named], 2)
    text = text[:1].upper() + text[1:] + (f" and {missed}" if missed else "")
    if hang.verdict is Verdict.SLOW:
        return f"{text}: slow rather than stuck"
    return text if hang.suspects else f"{text}; nobody knows whether it is stuck"


def _line(story: Story) -> str | None:
    """Return the line to go to: that of the suspect, else where the reaped worker was."""
    hang = story.hang
    for each in (hang.suspects or hang.lagging) if hang else ():
        if each.frame:
            return each.frame
    return story.frame


def _others(hang: HangReport | None, room: int) -> str:
    if hang is None:
        return "the other workers were not looked at (--no-hang-report)"
    others = [group for group in hang.groups if not group.suspected]
    if not others or hang.workers == 1:
        return "no other worker of the run was seen"
    total = sum(group.size for group in others)
    return _of_group(others[0], total, room)


def _of_group(group: Group, total: int, room: int) -> str:
    who = group.workers[0] if group.size == 1 else f"{group.size} ranks"
    if group.size < total:
        who = f"{group.size} of {total} others" if group.size > 1 else f"{who} of {total} others"
    text = f"{who} {'is' if group.size == 1 else 'are'} {group.what}"
    return f"{text} at {_place(group.frame, room - len(text) - 4)}" if group.frame else text


def _done(event: Event, fields: dict[str, Any]) -> str:
    if isinstance(event, ExplainedDump):
        took = seconds(fields.get("elapsed_seconds"))
        return f"{_who(fields)} is only observed, {took} into {fields.get('scope_id')}"
    again = ""
    if isinstance(event, ExplainedFailure):
        again = f"; tried again in {seconds(event.retry_in_seconds)}"
    return f"{_who(fields)} {deed(fields)}{again}"


def _who(fields: dict[str, Any]) -> str:
    rank = fields.get("rank")
    return f"worker {fields.get('worker_pid')}" if rank is None else f"rank {rank}"


def _place(frame: str | None, room: int) -> str:
    """Write ``file:line function`` as short as one finds it: from here, or below the libraries."""
    if not frame:
        return "unknown: no stack could be taken"
    place = library_path(frame) or frame
    with contextlib.suppress(OSError):  # the directory was deleted
        place = place.removeprefix(f"{os.getcwd()}/")
    place = printable(place)
    # The end says more than the beginning: the file, the line and the function.
    return place if len(place) <= room else f"...{place[len(place) - max(room - 3, 12) :]}"


def _cut(text: str, width: int) -> str:
    return cut(printable(text), width)
