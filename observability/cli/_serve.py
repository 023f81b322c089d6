"""``timers serve``: the service alone, for workers that somebody else starts as the same user."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from observability.http.health import is_watching
from observability.service import Service
from observability.settings import SettingsError
from timers.transport.socket_path import check_directory, check_path

from ._own_process import devote_process
from ._systemd import activated_socket, notify, watchdog_seconds

if TYPE_CHECKING:
    from observability.settings import Settings
    from timers.server.reaper import ReapPolicy
    from timers.transport.socket_path import Listener

_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_IGNORED = frozenset(
    {
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF),
        *(signal.SIGIO, signal.SIGPWR, signal.SIGXCPU),
        *(number for number in signal.valid_signals() if number >= signal.SIGRTMIN),
    }
)
"""Held back for ever."""
_DIRECTORY_VARIABLES = ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")
"""systemd.exec(5), RuntimeDirectory=; and that of the logged-in user."""


def default_timer_file() -> str:
    """Where the pipe is when nobody says: in the user's own runtime directory.

    :raises SettingsError: there is none.
    """
    for variable in _DIRECTORY_VARIABLES:
        directory = os.environ.get(variable, "").partition(":")[0]
        if directory:
            return os.path.join(directory, "timers.pipe")
    raise SettingsError(
        "--timer-file: give the path of the pipe; without XDG_RUNTIME_DIR there is no default"
    )


def serve(
    timer_file: str, settings: Settings, policy: ReapPolicy, timer_socket: str | None
) -> None:
    """Serve until SIGTERM or SIGINT. SIGHUP reopens the events file; without one it ends, too.

    Other signals that end a process which knows nothing of them, as SIGALRM and SIGUSR1, are
    ignored: there is no command here that they could be for. SIGQUIT and SIGABRT, which a service
    manager sends to have a core dump, do what they always do.

    Must be called in the main thread, before any other is started; the signals stay blocked when
    it returns.

    :param timer_socket: path of the Unix socket; None for the one that systemd hands over or else
        ``timers.sock`` beside ``timers.pipe``, if that can be one; "off" for none.
    :raises SettingsError: something that was asked for is not possible.
    """
    waited_for = {number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*waited_for, *_IGNORED})
    devote_process()
    service = Service(timer_file, settings, policy, _socket(timer_file, timer_socket))
    try:
        service.start()
        if service.http is not None:
            service.say(f"serves {service.http.url}", "info")
        notify("READY=1")
        _wait_for_end(service, waited_for)
        notify("STOPPING=1")
    finally:
        service.stop()


def _socket(timer_file: str, timer_socket: str | None) -> str | Listener | None:
    activated = activated_socket()
    if activated is not None or timer_socket == "off":
        return activated
    if timer_socket is not None:
        return timer_socket
    path = os.path.splitext(timer_file)[0] + ".sock"
    try:
        check_directory(path)
        return check_path(path)
    except (ValueError, OSError):
        return None  # nobody asked for it, and the pipe does as well


def _wait_for_end(service: Service, signals: set[signal.Signals]) -> None:
    period = watchdog_seconds()
    while True:
        if period is None:
            info = signal.sigwaitinfo(signals)
        else:
            # Half the period, as sd_watchdog_enabled(3) advises.
            asked = time.monotonic()
            if is_watching(service.server):
                notify("WATCHDOG=1")
            rest = period / 2 - (time.monotonic() - asked)
            found = signal.sigtimedwait(signals, max(0.0, rest))
            if found is None:
                continue
            info = found
        if info.si_signo == signal.SIGHUP and service.settings.events != "-":
            service.pipeline.reopen()
        else:
            return
