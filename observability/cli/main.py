"""The ``timers`` command. What a subcommand does is in the module of its name.

Those modules are imported when they are needed: ``--help`` and shell completion should be quick.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import click
from click.shell_completion import get_completion_class

from observability.duration import Seconds
from observability.explain.command import explain
from observability.report.command import report
from observability.settings import DEFAULT_ADDRESS, SettingsError
from timers.auto import KILL_CHOSEN, KINDS, auto_environment

from ._options import (
    make_policy,
    make_settings,
    option,
    read_token,
    service_options,
    to_address,
    to_deadlines,
    to_kinds,
    to_users,
)

__all__ = ["main"]

_SHELLS = ("bash", "zsh", "fish")


class _Command(click.Group):
    """Says in one line what cannot be done, and exits with 2 (wrong usage, unusable input)."""

    def main(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return super().main(*arguments, **keywords)
        except SettingsError as error:
            message = str(error)
        except OSError as error:  # of writing what was asked for, mostly: the disk is full
            message = str(error)
            # Or what is still to be written would fail once more, at the end of the interpreter.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        with contextlib.suppress(OSError):
            click.echo(f"Error: {message}", err=True)
        sys.exit(2)


@click.group(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="expiration-timers")
def main() -> None:
    """Watch the timers of worker processes; explain and end those that get stuck."""


@main.command(
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] --",
    epilog="Exits as COMMAND did: 128+n for signal n, 127 when it is not found, 126 when it cannot"
    " be executed; 2 for wrong usage, and then COMMAND was not started.",
)
@service_options
@option(
    "--timer-file",
    type=click.Path(),
    help="Path of the named pipe. By default in a private temporary directory.",
)
@option(
    "--timer-socket",
    type=click.Path(),
    help="Path of the Unix socket, or 'off'. By default in a private temporary directory.",
)
@option(
    "--nccl-timing/--no-nccl-timing",
    help="Have NCCL record when an operation starts (TORCH_NCCL_ENABLE_TIMING): tells a rank whose"
    " GPU is busy from those that wait for it, and costs each operation two CUDA events.",
)
@option(
    "--auto",
    metavar="KINDS",
    default="all",
    callback=to_kinds,
    help="Which automatic timers the Python processes of COMMAND get around what torch, Ray and"
    f" mpi4py do: some of {', '.join(KINDS)} with commas between them, 'all' or 'off'.",
)
@option(
    "--auto-after",
    metavar="SCOPE=SECONDS",
    multiple=True,
    callback=to_deadlines,
    help="The deadline of the automatic timers of a scope, or of a kind, in place of a learned one:"
    " Trainer.step=60, task=10m. May be given more than once.",
)
@option(
    "--auto-action",
    type=click.Choice(("report", "kill", KILL_CHOSEN)),
    default="report",
    help="What the expiry of an automatic timer does: report, or end the worker as well, or do so"
    " only for deadlines of --auto-after.",
)
@option(
    "--give-up-after",
    metavar="ATTEMPTS",
    type=click.IntRange(min=0),
    default=0,
    help="End COMMAND when a worker was reaped at the same line in so many attempts in a row,"
    " without a step between (the scope 'step'); 0 for never.",
)
@option(
    "--learned",
    metavar="FILE",
    type=click.Path(),
    help="Where what is learned of how long blocks take is kept, from which automatic timers and"
    " timers.LEARNED get their deadlines; 'off' for nowhere. By default a file for this command in"
    " the state directory of the user.",
)
@click.argument(
    "command", metavar="COMMAND [ARG]...", nargs=-1, required=True, type=click.UNPROCESSED
)
@click.pass_context
def run(context: click.Context, /, command: tuple[str, ...], **_: object) -> None:
    """Run COMMAND with a timer server for its workers.

    COMMAND needs no change: what its processes do with torch, Ray and MPI is timed by itself
    (--auto), and reported when it takes too long. It finds the addresses in its environment:
    TIMERS_SOCKET, TORCHELASTIC_TIMER_FILE and TIMERS_FILE (the pipe), TIMERS_RUN_ID and
    TIMERS_HTTP. Input and output are its own.

    Signals are passed on to it, except SIGHUP when --events names a file, which is opened anew
    then. A second SIGINT or SIGTERM gives it the grace period to end, a third kills it and all
    that it started at once; so does a third Ctrl-C in short succession. What it leaves running
    when it was asked to end is ended, too; when it ended by itself, that is left alone.
    """
    from ._run import run as run_command  # noqa: PLC0415  # see the module's description

    settings = make_settings(context, own_file=True)
    policy = make_policy(context, descendants_of=os.getpid())
    _prepare_stderr(settings.events, settings.run_id)
    given = context.params
    code = run_command(
        command,
        given["timer_file"],
        settings,
        policy,
        given["timer_socket"],
        automatic=auto_environment(
            os.environ,
            given["auto"],
            kill=given["auto_action"] != "report",
            only_chosen=given["auto_action"] == KILL_CHOSEN,
            after=given["auto_after"],
        ),
        nccl_timing=given["nccl_timing"],
        give_up_after=given["give_up_after"],
    )
    sys.exit(code)


@main.command()
@service_options
@option(
    "--timer-file",
    type=click.Path(),
    help="Path of the named pipe, which workers have to be given as TIMERS_FILE. By default"
    " timers.pipe in the runtime directory of the unit or of the user.",
)
@option(
    "--timer-socket",
    type=click.Path(),
    help="Path of the Unix socket, which workers have to be given as TIMERS_SOCKET, or 'off'. By"
    " default the one that systemd hands over, or timers.sock beside the pipe.",
)
@option(
    "--allow-user",
    metavar="USER",
    multiple=True,
    help="User, besides its own, whose workers may connect to the socket and are watched and ended."
    " May be given more than once.",
)
@click.pass_context
def serve(context: click.Context, /, **_: object) -> None:
    """Serve workers that somebody else starts, as the same user.

    Ends on SIGTERM and SIGINT. Tells systemd when it is ready (Type=notify) and, with WatchdogSec,
    that it is at work.
    """
    from ._serve import default_timer_file  # noqa: PLC0415  # see the module's description
    from ._serve import serve as serve_workers  # noqa: PLC0415  # as above

    settings = make_settings(context)
    _prepare_stderr(settings.events, settings.run_id)
    timer_file = context.params["timer_file"] or default_timer_file()
    policy = replace(make_policy(context), users=to_users(context.params["allow_user"]))
    serve_workers(timer_file, settings, policy, context.params["timer_socket"])


main.add_command(explain)
main.add_command(report)


@main.command()
@click.argument("url", envvar="TIMERS_HTTP", default=str(DEFAULT_ADDRESS))
@click.option("--once", is_flag=True, help="Print the table once, for scripts.")
@click.option(
    "--interval",
    type=Seconds(zero=False),
    default=1.0,
    show_default=True,
    help="How often to look.",
)
@option(
    "--http-token-file", type=click.Path(), metavar="FILE", help="File with the service's secret."
)
@option(
    "--tls-ca",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="PEM file with the authority of the service's certificate.",
)
def top(
    *, url: str, once: bool, interval: float, http_token_file: str | None, tls_ca: str | None
) -> None:
    """Show what is running and how close to its deadline.

    URL is that of the service, or HOST:PORT; by default TIMERS_HTTP or 127.0.0.1:9464.
    """
    from ._top import ServiceError, fetch, service_url, show, show_live  # noqa: PLC0415  # as above

    try:
        base = service_url(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not once and not sys.stdout.isatty():
        raise click.UsageError("the output is no terminal: use --once")
    ask = partial(fetch, base, token=read_token(http_token_file), ca_file=tls_ca)
    try:
        if once:
            show(ask)
        else:
            show_live(ask, interval)
    except ServiceError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@option(
    "--http",
    metavar="HOST:PORT",
    callback=to_address,
    default=str(DEFAULT_ADDRESS),
    help="The address whose port to check.",
)
@click.pass_context
def check(context: click.Context, /, **_: object) -> None:
    """Find out whether a stuck worker would be explained and ended on this machine.

    Starts a process of its own that gets stuck, and reaps it. Exits with 1 when a check failed.
    """
    from ._check import check_all  # noqa: PLC0415  # as above

    results = check_all(context.params["http"])
    colors = {"ok": "green", "warning": "yellow", "failed": "red"}
    for name, result in results.items():
        status = click.style(f"{result.status:<8}", fg=colors.get(result.status))
        click.echo(f"{status} {name:<10} {result.message}")
        if result.advice and result.status in ("warning", "failed"):
            click.echo(f"{'':<19} -> {result.advice}")
    sys.exit(any(result.status == "failed" for result in results.values()))


@main.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(*, shell: str) -> None:
    """Print the completion script of SHELL.

    For bash, put this into ~/.bashrc: eval "$(timers completion bash)"
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101  # click has those three built in
    click.echo(found(main, {}, "timers", "_TIMERS_COMPLETE").source())


def _prepare_stderr(events: str, run_id: str) -> None:
    from ._own_process import keep_standard_streams, log_to_stderr  # noqa: PLC0415  # as above

    keep_standard_streams()
    log_to_stderr(as_json=events == "-" and not os.isatty(2), run_id=run_id)
