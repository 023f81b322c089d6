"""``timers run``: a command, supervised, with a timer server for what it starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

from observability.events import RunFinished
from observability.giving_up import GivingUp, steps_of
from observability.service import Service, write_line
from observability.settings import SettingsError
from observability.sinks.trace_ids import spans_wanted
from timers.auto.learned import LEARNED_VARIABLE
from timers.transport.socket_path import check_path, private_directory
from timers.worker.environment import SERVER_PID_VARIABLE, SOCKET_VARIABLE

from ._child import CannotStart, Child
from ._own_process import devote_process
from ._recorder import recorder_environment
from ._supervise import Supervisor, become_subreaper, block_signals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from observability.settings import Settings
    from timers.server.reaper import ReapPolicy

_SCRAPE_PAUSE_SECONDS = 0.1
_INSIST_SECONDS = 0.5
"""Longer than two requests to end are taken for one."""
AGENT_SERVER_VARIABLE = "TORCHELASTIC_ENABLE_FILE_TIMER"
"""Makes torchrun's agent start a server of its own: at our path, where it deletes our pipe, and one
that kills its own agent after a reap."""


def run(
    command: Sequence[str],
    timer_file: str | None,
    settings: Settings,
    policy: ReapPolicy,
    timer_socket: str | None,
    *,
    automatic: Mapping[str, str],
    nccl_timing: bool,
    give_up_after: int,
) -> int:
    """Run ``command`` under a timer server; return what to exit with.

    Must be called in the main thread, before any other is started; the signals that it holds back
    stay blocked when it returns, because a late Ctrl-C must not interrupt the rest either.

    :param timer_file: path of the named pipe; None for one in a temporary directory of its own.
    :param timer_socket: path of the Unix socket; None for one in that directory (and none at all
        where its path would be too long for a socket), "off" for none.
    :param automatic: the variables for automatic timers (:func:`timers.auto.auto_environment`).
    :param nccl_timing: whether NCCL shall record when an operation starts on the GPU.
    :param give_up_after: end the command when a worker was reaped at the same line in so many
        attempts in a row; 0 for never.
    :raises ~observability.settings.SettingsError: something that was asked for is not possible;
        the command was not started then.
    """
    if sys.platform != "linux":
        raise SettingsError(f"timers run needs Linux (prctl, pidfd, /proc), this is {sys.platform}")
    signals, mask = block_signals()
    try:
        become_subreaper()
    except OSError as error:
        raise SettingsError(f"timers run cannot adopt what its command leaves: {error}") from None
    with (
        _paths(timer_file, timer_socket) as (path, socket_path),
        recorder_environment(os.environ, timing=nccl_timing) as recorder,
    ):
        service = Service(path, settings, policy, socket_path)
        if give_up_after:
            service.pipeline.add(
                GivingUp(
                    give_up_after,
                    steps=lambda: steps_of(service.server.statistics),
                    give_up=lambda reason: _give_up(service, reason),
                )
            )
        try:
            service.start()
            started = time.monotonic()
            try:
                environment = _environment(service, path, socket_path)
                child = Child(command, {**environment, **recorder, **automatic}, mask)
            except CannotStart as error:
                service.say(str(error), "error")
                return error.code
            devote_process()  # not before: the command would inherit the limit of open files
            code = Supervisor(
                child,
                signals,
                grace=policy.grace,
                tell=service.say,
                hangup=service.pipeline.reopen if service.names_a_file else None,
            ).wait()
            _finish(service, code, time.monotonic() - started)
            _stay_until_scraped(service, signals)
            return code
        finally:
            service.stop()


@contextlib.contextmanager
def _paths(pipe: str | None, socket: str | None) -> Iterator[tuple[str, str | None]]:
    """Where the pipe and the socket are; what nobody chose is in a directory of ours."""
    chosen = None if socket == "off" else socket
    if pipe is not None and socket is not None:
        yield pipe, chosen
        return
    with _directory() as directory:
        if socket is None:
            chosen = _usable(os.path.join(directory, "timers.sock"))
        yield pipe or os.path.join(directory, "timers.pipe"), chosen


@contextlib.contextmanager
def _directory() -> Iterator[str]:
    try:
        directory = private_directory("timers-")
    except OSError as error:
        raise SettingsError(
            f"no directory for the pipe and the socket: {error.strerror or error}. Set TMPDIR, or"
            " give --timer-file and --timer-socket"
        ) from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # without a descriptor to read it by
            for name in ("timers.pipe", "timers.sock"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, name))
            os.rmdir(directory)


def _usable(path: str) -> str | None:
    try:
        return check_path(path)
    except ValueError:  # TMPDIR is deep, and /tmp not to be had: the pipe does as well
        return None


def _environment(service: Service, path: str, socket_path: str | None) -> dict[str, str]:
    environment = dict(os.environ)
    environment.pop(SOCKET_VARIABLE, None)  # that of a service around this one
    if socket_path is not None:
        environment[SOCKET_VARIABLE] = os.path.abspath(socket_path)
    if environment.pop(AGENT_SERVER_VARIABLE, None) is not None:
        service.say(
            f"{AGENT_SERVER_VARIABLE} is not passed on: torchrun would start a second timer server"
        )
    path = os.path.abspath(path)
    environment.pop(LEARNED_VARIABLE, None)
    if service.settings.learned is not None:
        environment[LEARNED_VARIABLE] = service.settings.learned
    environment |= {
        "TORCHELASTIC_TIMER_FILE": path,
        "TIMERS_FILE": path,
        "TIMERS_RUN_ID": service.settings.run_id,
        SERVER_PID_VARIABLE: str(os.getpid()),
    }
    # Not "off": to whoever reads it, it is an address.
    environment.pop("TIMERS_HTTP", None)
    if service.address is not None:
        # HOST:PORT says enough, unless it is TLS.
        tls = "https://" if service.settings.tls_cert else ""
        environment["TIMERS_HTTP"] = f"{tls}{service.address}"
    if not spans_wanted(environment):
        # Or a worker that traces would refer to spans of scopes that nobody exports.
        environment.setdefault("TIMERS_TRACING", "0")
    # A watchdog that dies must not take the job with it, and this process can be killed.
    environment.setdefault("TIMERS_ON_ERROR", "warn")
    return environment


def _give_up(service: Service, reason: str) -> None:
    """End the command, as somebody would who asks for it twice; see :mod:`._supervise`."""
    service.say(reason, "error")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_INSIST_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _finish(service: Service, code: int, elapsed: float) -> None:
    """Say what was counted, once the last reap has been."""
    service.stop_watching()
    scopes = list(service.server.statistics.scopes.values())
    service.pipeline.emit(
        RunFinished(
            timestamp=time.time(),
            run_id=service.settings.run_id,
            exit_code=code,
            elapsed_seconds=elapsed,
            acquires=sum(scope.acquires for scope in scopes),
            expirations=sum(scope.expirations for scope in scopes),
            reaps=service.view.reaps_so_far(),
        )
    )


def _stay_until_scraped(service: Service, signals: set[signal.Signals | int]) -> None:
    """Let who scrapes see the last reap; a request to end, or its bound, ends that."""
    seconds = service.unseen()
    if seconds <= 0:
        return
    write_line(
        f"the job was reaped and has ended: stays for one more scrape, for at most {seconds:.0f} s"
    )
    ends = signals - {signal.SIGCHLD}
    bound = time.monotonic() + seconds
    while service.unseen() > 0 and time.monotonic() < bound:
        found = signal.sigtimedwait(ends, _SCRAPE_PAUSE_SECONDS)
        if found is not None and found.si_signo in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            return
