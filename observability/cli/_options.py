"""The options of the command, each with its environment variable."""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import fields, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from observability.duration import Seconds
from observability.events import event_names
from observability.fleet.run_id import run_id_of
from observability.http.address import Address
from observability.settings import DEFAULT_ADDRESS, Settings
from observability.untrusted import printable, this_host
from timers.auto import KINDS
from timers.server.reaper import KILL_TREE, ReapPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    F = TypeVar("F", bound=Callable[..., Any])

MAX_TOKEN_BYTES = 4096
_MOST_FILES = 100
_SPARE_SECONDS = 30.0
"""For the launcher to end those that wait, once the one that holds them up has been killed."""


def to_address(_context: click.Context, _option: click.Parameter, text: str) -> Address | None:
    """Read ``HOST:PORT`` or ``off``.

    :raises click.BadParameter: it is neither.
    """
    if text == "off":
        return None
    try:
        # With a scheme it is what a service with TLS told the jobs that it runs.
        return Address.parse(text.removeprefix("https://"))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def to_shares(_context: click.Context, _option: click.Parameter, text: str) -> tuple[float, ...]:
    """Read shares of a deadline: ``0.5,0.9``."""
    try:
        shares = tuple(sorted({float(word) for word in text.split(",") if word.strip()}))
    except ValueError:
        shares = (0.0,)
    if not all(0 < share < 1 for share in shares):
        raise click.BadParameter(f"{text!r}: numbers between 0 and 1, with commas between them")
    return shares


def to_names(_context: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    """Read names of events.

    :raises click.UsageError: there is no such event.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known = event_names()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(
            f"{option.opts[0]}: there is no event {unknown[0]!r}; there are: {', '.join(known)}"
        )
    return names


def option(name: str, /, *more: str, **keywords: Any) -> Callable[[F], F]:
    """An option ``--some-name`` with its environment variable ``TIMERS_SOME_NAME``.

    Help shows both the variable and the default, where there is one.
    """
    keywords.setdefault("show_default", keywords.get("default", "") != "")
    bare = name.partition("/")[0].removeprefix("--")
    variable = "TIMERS_" + bare.upper().replace("-", "_")
    return click.option(name, *more, envvar=variable, show_envvar=True, **keywords)


def service_options(command: F) -> F:
    """Add the options that ``run`` and ``serve`` share."""
    return reduce(lambda function, each: each(function), reversed(_SERVICE_OPTIONS), command)


_SERVICE_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    option(
        "--http",
        metavar="HOST:PORT",
        callback=to_address,
        default=str(DEFAULT_ADDRESS),
        help="Where to serve /metrics, /timers and health; 'off' for nowhere. Another port is taken"
        " when the default one is not free, but not when this option names it.",
    ),
    option(
        "--http-token-file",
        type=click.Path(exists=True, dir_okay=False),
        help="File with a secret that HTTP clients have to present, as a bearer token or as the"
        " password of any user.",
    ),
    option(
        "--http-insecure",
        is_flag=True,
        help="Serve other machines without authentication. Stacks show source and arguments.",
    ),
    option("--tls-cert", type=click.Path(), help="Serve HTTPS: PEM file with the certificate."),
    option("--tls-key", type=click.Path(), help="PEM file with the key of the certificate."),
    option(
        "--events",
        metavar="FILE",
        help="Append events as JSON lines to FILE, '-' for stderr; SIGHUP opens it anew after a"
        " rotation. By default 'serve' writes them to stderr, and 'run' to a file in the state"
        " directory of the user (XDG_STATE_HOME), so that they do not mix with what the job writes."
        " A terminal shows what matters in any case, for reading.",
    ),
    option(
        "--event-names",
        type=click.Choice(("plain", "otel")),
        default="plain",
        help="How the fields of these lines are named: as this package's documents do, or as in"
        " OpenTelemetry's log data model. 'timers report' reads both.",
    ),
    option(
        "--verbose",
        "-v",
        is_flag=True,
        help="Show every event with all its fields at the terminal, in place of five lines a reap.",
    ),
    option(
        "--level",
        type=click.Choice(("debug", "info", "warning", "error")),
        default="info",
        help="Lowest level of events that are written; 'debug' has each acquire and release.",
    ),
    option(
        "--include",
        metavar="NAMES",
        default="",
        callback=to_names,
        help="Events to write whatever their level, separated by commas.",
    ),
    option(
        "--exclude",
        metavar="NAMES",
        default="",
        callback=to_names,
        help="Events never to write, separated by commas.",
    ),
    option(
        "--dump-dir",
        metavar="DIRECTORY",
        help="Where a stack that is too large for a line goes as a whole.",
    ),
    option(
        "--run-id",
        metavar="ID",
        help="Names the job in events. By default that of the launcher, or one made up.",
    ),
    option(
        "--dump-timeout",
        type=Seconds(),
        default=5.0,
        help="Bound on finding out where a worker is stuck; it is killed then in any case.",
    ),
    option(
        "--grace",
        type=Seconds(),
        default=5.0,
        help="How long a process may outlive a signal before SIGKILL.",
    ),
    option(
        "--kill-tree",
        type=click.Choice(KILL_TREE),
        default="helpers",
        is_flag=False,
        flag_value="all",
        help="Which descendants of a stuck worker are killed with it: its helpers (no other worker,"
        " nothing that made a session of its own), all of them or, with 'off', none.",
    ),
    option(
        "--hang-report/--no-hang-report",
        default=True,
        help="When a worker expires, look at all workers and say which one holds up the others.",
    ),
    option(
        "--fleet/--no-fleet",
        default=True,
        help="Look at the workers of all hosts of a torchrun job, through its own store, and make"
        " one report; a host that does not answer in time holds up nothing.",
    ),
    option(
        "--kill",
        type=click.Choice(("expired", "culprit")),
        default="expired",
        help="Which workers are ended: each whose timer has expired, or at first only the one that"
        " holds the others up, where one is named; the launcher has 30 s to end those then.",
    ),
    option(
        "--spans",
        type=click.Choice(("all", "slow", "failed")),
        default="all",
        help="Which scopes become OpenTelemetry spans, where these are exported: each, those that"
        " used 80 % of their time, expired or failed, or those that failed.",
    ),
    option(
        "--on-hang",
        metavar="COMMAND",
        help="Run COMMAND with /bin/sh for each hang report, which it finds as JSON on its standard"
        " input: to tell a chat or a pager. It may take 10 seconds, and holds up no kill.",
    ),
    option(
        "--sample-at",
        metavar="SHARES",
        default="0.5,0.9",
        callback=to_shares,
        help="Look at a worker at these shares of its deadline, too: shows whether it is stuck or"
        " slow.",
    ),
    option(
        "--sample-from",
        type=Seconds(),
        default=10.0,
        help="Do so for timers of at least this long; 0 for none.",
    ),
    option(
        "--stall-after",
        type=Seconds(),
        default=300.0,
        help="Report when nothing of the job has moved for this long, timers or not; 0 for never.",
    ),
    option(
        "--stall-action",
        type=click.Choice(("report", "kill")),
        default="report",
        help="What to do then: report, or end the suspect as well, where there is one.",
    ),
    option("--native/--no-native", help="Whether stacks show C frames; pauses the worker briefly."),
    option(
        "--max-interval",
        type=Seconds(zero=False),
        default=10.0,
        help="How often the server wakes up when nothing happens. Reaps do not wait for it.",
    ),
)


def make_settings(context: click.Context, *, own_file: bool = False) -> Settings:
    """What the shared options of ``context`` say.

    :param own_file: whether events go to a file of their own unless somebody chose where.
    :raises click.UsageError: they contradict each other, or a file cannot be read.
    """
    given = context.params
    source = context.get_parameter_source("http")
    # Inside another "timers run" the variable says where that one serves, which is not a wish.
    inherited = source == ParameterSource.ENVIRONMENT and "TIMERS_FILE" in os.environ
    if given["tls_key"] and not given["tls_cert"]:
        raise click.UsageError("--tls-key needs --tls-cert")
    # The environment can hold any bytes.
    run_id = printable(given["run_id"] or run_id_of(os.environ, given.get("command") or ()))
    events = given["events"]
    if events is None:
        events = _state_file(run_id) if own_file else "-"
    same = {field.name: given[field.name] for field in fields(Settings) if field.name in given}
    return replace(
        Settings(**same),
        run_id=run_id,
        http=DEFAULT_ADDRESS if inherited and given["http"] else given["http"],
        http_fallback=inherited or source == ParameterSource.DEFAULT,
        token=read_token(given["http_token_file"]),
        insecure=given["http_insecure"],
        events=events,
        events_chosen=given["events"] is not None or events == "-",
        names=given["event_names"],
        spare_seconds=_spare(given),
        learned=_learned_file(given["learned"], given["command"]) if own_file else None,
        learned_chosen=given.get("learned") is not None,
        stall_kill=given["stall_action"] == "kill",
    )


def make_policy(context: click.Context, *, descendants_of: int | None = None) -> ReapPolicy:
    """How stuck workers are ended, as the options of ``context`` say."""
    given = context.params
    return ReapPolicy(
        dump_timeout=given["dump_timeout"] + _spare(given),
        grace=given["grace"],
        kill_tree=given["kill_tree"],
        descendants_of=descendants_of,
    )


def to_kinds(_context: click.Context, _option: click.Parameter, text: str) -> str:
    """Read which automatic timers there shall be.

    :raises click.BadParameter: there is no such kind.
    """
    if text in ("all", "off"):
        return text
    kinds = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise click.BadParameter(
            f"{(unknown or [text])[0]!r}: 'all', 'off', or some of {', '.join(KINDS)}"
        )
    return ",".join(kinds)


def to_deadlines(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, float]:
    """Read deadlines of automatic timers: ``SCOPE=SECONDS``, each.

    :raises click.BadParameter: one is something else.
    """
    found = {}
    for text in texts:
        name, equals, duration = text.rpartition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r}: SCOPE=SECONDS, as Trainer.step=60 or task=10m")
        try:
            found[name] = Seconds(zero=False).convert(duration, None, None)
        except click.BadParameter as error:
            raise click.BadParameter(f"{text!r}: {error.message}") from None
    return found


def _spare(given: dict[str, Any]) -> float:
    return _SPARE_SECONDS if given["kill"] == "culprit" and given["hang_report"] else 0.0


def to_users(names: Iterable[str]) -> frozenset[int]:
    """The ids of these users, who may be given by name or by number.

    :raises click.UsageError: there is no such user.
    """
    users = set()
    for name in names:
        try:
            is_number = name.isascii() and name.isdigit()
            users.add(int(name) if is_number else pwd.getpwnam(name).pw_uid)
        except (KeyError, ValueError):  # ValueError: thousands of digits, or a null
            raise click.UsageError(f"--allow-user: there is no user {name!r}") from None
    return frozenset(users)


def read_token(path: str | None) -> str | None:
    """Read a secret from a file, if there is to be one, without the white space around it.

    :raises click.UsageError: it cannot be read, or there is none in it.
    """
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read(MAX_TOKEN_BYTES + 1).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"token file {path}: {error}") from None
    if not token or len(token.encode()) > MAX_TOKEN_BYTES or not token.isprintable():
        raise click.UsageError(
            f"token file {path}: must hold one line of 1 to {MAX_TOKEN_BYTES} bytes"
        )
    return token


def _state_directory() -> Path | None:
    """Return the user's state directory, made for this user alone; None without one."""
    directory = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state", "timers")
    try:
        directory = directory.expanduser()
        if not directory.is_absolute():
            return None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return directory if os.access(directory, os.W_OK) else None


def _state_file(run_id: str) -> str:
    """Make a name for the events of one run in the user's state directory; "-" without one.

    The newest hundred files are kept.
    """
    directory = _state_directory()
    if directory is None:
        return "-"
    try:
        files = sorted(directory.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
        for path in files[: -_MOST_FILES + 1]:
            path.unlink()
    except OSError:
        return "-"
    word = re.sub(r"[^\w.-]", "_", run_id, flags=re.ASCII)[:64]
    return str(directory / f"{word}.{this_host()}.{os.getpid()}.jsonl")


def _learned_file(chosen: str | None, command: tuple[str, ...]) -> str | None:
    if chosen is not None:
        return None if chosen == "off" else os.path.abspath(chosen)
    from observability.learning import learned_path  # noqa: PLC0415  # --help should be quick

    directory = _state_directory()
    return None if directory is None else learned_path(directory, command)
