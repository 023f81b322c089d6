"""A timer server with everything around it: its pipeline, its metrics, its HTTP side."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

from timers import FileTimerRequest, FileTimerServer
from timers.bounded import left
from timers.errors import TimerError
from timers.socket_timer import socket_source
from timers.stacks import take as stacks

from . import open_pipeline
from .events import Notice
from .fleet.fleet import Engine, Fleet
from .hang.roll_call import CULPRIT_SCOPE, RollCall
from .http.address import Address
from .http.app import View, make_app
from .http.server import HttpServer, tls_context
from .learning import Learner
from .sampling.process_facts import add_open_files
from .scope_durations import scope_durations
from .settings import SettingsError
from .sinks.hook import HOOK_SECONDS, HangHook
from .sinks.log import LogSink
from .sinks.metrics import Metrics
from .sinks.recent import RecentReaps
from .stall.watch import STALLED_SCOPE, StallWatch
from .untrusted import this_host
from .worker_notes import WorkerNotes

if TYPE_CHECKING:
    from timers.server.reaper import BeforeKill, ReapPolicy
    from timers.transport.seqpacket import SocketSource
    from timers.transport.socket_path import Listener

    from .pipeline import Pipeline
    from .settings import Settings

__all__ = ["Service", "write_line"]

CLOSE_SECONDS = 2.0


class Service:
    """Listens from the moment it is made; serves between :meth:`start` and :meth:`stop`.

    :param timer_file: path of the named pipe.
    :param timer_socket: path of the Unix socket, or one that listens already; None for none.
    :param engine: by what other hosts of the job are reached, where that is not torchrun's store.
    :raises SettingsError: something that was asked for is not possible. Nothing is left behind.
    """

    def __init__(
        self,
        timer_file: str,
        settings: Settings,
        policy: ReapPolicy,
        timer_socket: str | Listener | None = None,
        *,
        engine: Engine | None = None,
    ) -> None:
        self.settings = settings
        self._told_durations = False
        self._host = settings.host or this_host()
        self._engine = engine
        self._notices: list[str] = []
        if settings.http is not None and not (
            settings.http.is_loopback or settings.token is not None or settings.insecure
        ):
            raise SettingsError(
                f"--http {settings.http}: other machines could read stacks, which show source and"
                " arguments. Give --http-token-file, or --http-insecure if that is intended"
            )
        self.http = None if settings.http is None else self._listen(settings.http)
        try:
            self._build(timer_file, policy, timer_socket)
        except SettingsError:
            if self.http is not None:
                self.http.stop()
            raise

    def _listen(self, address: Address) -> HttpServer:
        settings = self.settings
        tls = None
        if settings.tls_cert is not None:
            try:
                tls = tls_context(settings.tls_cert, settings.tls_key)
            except OSError as error:
                files = " and ".join(filter(None, (settings.tls_cert, settings.tls_key)))
                raise SettingsError(f"--tls-cert, --tls-key: {files}: {error}") from None
        try:
            return HttpServer(address, tls=tls)
        except UnicodeError as error:
            raise SettingsError(f"--http {address}: no name of a host: {error}") from None
        except OSError as error:
            if not (settings.http_fallback and error.errno == errno.EADDRINUSE):
                raise SettingsError(f"--http {address}: {error}") from None
        try:
            server = HttpServer(Address(address.host, 0), tls=tls)
        except OSError as error:
            raise SettingsError(f"--http {address.host}:0: {error}") from None
        self._notices.append(f"{address} is taken: HTTP is served at {server.address}")
        return server

    def _build(
        self, timer_file: str, policy: ReapPolicy, timer_socket: str | Listener | None
    ) -> None:
        settings = self.settings
        self._reaps = RecentReaps(run_id=settings.run_id)
        self._learner: Learner | None = None
        if settings.learned is not None:
            self._learner = Learner(settings.learned, is_one_of_many=not settings.learned_chosen)
        sinks = (self._reaps, self._screen(), self._hook(), self._learner)
        try:
            self.pipeline: Pipeline = open_pipeline(
                events=settings.events,
                level=settings.level,
                include=settings.include,
                exclude=settings.exclude,
                dump_directory=settings.dump_dir,
                run_id=settings.run_id,
                sinks=[sink for sink in sinks if sink is not None],
                verbose=settings.verbose,
                names=settings.names,
                spans_kept=settings.spans,
            )
        except OSError as error:
            raise SettingsError(f"--events or --dump-dir: {error}") from None
        origin = f"--timer-socket {timer_socket}"
        also: list[SocketSource] = []
        try:
            if timer_socket is not None:
                also.append(socket_source(timer_socket, policy))
            origin = f"--timer-file {timer_file}"
            self.server = FileTimerServer(
                timer_file,
                settings.run_id,
                settings.max_interval,
                observer=self.pipeline,
                before_kill=WorkerNotes(
                    self._before_kill(policy),
                    self.pipeline.stories,
                    own_is_enough=settings.events == "-" or os.isatty(2),
                ).before_kill,
                policy=policy,
                also=also,
            )
        except (TimerError, OSError, ValueError) as error:
            for source in also:
                source.close()
            self.pipeline.close(CLOSE_SECONDS)
            raise SettingsError(f"{origin}: {error}") from None
        self.pipeline.stories.where = self._where()
        if timer_socket is not None:
            path = timer_socket if isinstance(timer_socket, str) else timer_socket.path
            self.server.reached_by["socket"] = path
        self.pipeline.watch(self.server.statistics)
        self._stall_watch = self._make_stall_watch(policy)
        if self._roll_call is not None:
            self._roll_call.attach(self.server)
        self._fleet = self._make_fleet(policy)
        self.view = View(
            server=self.server,
            metrics=Metrics(self.pipeline),
            reaps=self._reaps,
            run_id=settings.run_id,
            host=self._host,
        )

    def _screen(self) -> LogSink | None:
        """Make a log for the person at the terminal, when the events go to a file."""
        settings = self.settings
        if settings.events == "-" or not os.isatty(2):
            return None
        return LogSink(
            level=settings.level,
            include=settings.include,
            exclude=settings.exclude,
            run_id=settings.run_id,
            verbose=settings.verbose,
            name="terminal",
        )

    def _hook(self) -> HangHook | None:
        settings = self.settings
        if settings.on_hang is None:
            return None
        return HangHook(settings.on_hang, run_id=settings.run_id, where=self._where)

    @property
    def names_a_file(self) -> bool:
        """Whether a person chose a file for the events: then SIGHUP is about that."""
        return self.settings.events != "-" and self.settings.events_chosen

    def _make_stall_watch(self, policy: ReapPolicy) -> StallWatch | None:
        settings = self.settings
        if settings.stall_after <= 0:
            return None
        return StallWatch(
            self.server,
            self.pipeline.emit,
            after=settings.stall_after,
            run_id=settings.run_id,
            host=self._host,
            own_children=policy.descendants_of == os.getpid(),
            kill=partial(self._expire, STALLED_SCOPE) if settings.stall_kill else None,
        )

    def _expire(self, scope: str, pid: int) -> None:
        """Have the watchdog end a process that has no timer, by all that it does at an expiry."""
        request = FileTimerRequest(pid, scope, time.time(), int(signal.SIGKILL))
        self.server.register_timers([request])

    def _before_kill(self, policy: ReapPolicy) -> BeforeKill:
        settings = self.settings
        self._roll_call: RollCall | None = None
        if not settings.hang_report:
            return partial(_take_stacks, native=settings.native)
        self._roll_call = RollCall(
            self.pipeline.emit,
            run_id=settings.run_id,
            host=self._host,
            timeout=policy.dump_timeout - settings.spare_seconds,
            end=partial(self._expire, CULPRIT_SCOPE) if settings.spare_seconds else None,
            sample_at=settings.sample_at,
            sample_from=settings.sample_from,
            native=settings.native,
        )
        self.pipeline.add(self._roll_call)
        return self._roll_call.before_kill

    def _make_fleet(self, policy: ReapPolicy) -> Fleet | None:
        if self._roll_call is None or not self.settings.fleet:
            return None
        fleet = Fleet(
            host=self._host,
            seconds=policy.dump_timeout - self.settings.spare_seconds,
            known_workers=self.server.known_workers,
            refuse=self.server.reject,
            say=self._note,
            engine=self._engine,
        )
        self._roll_call.join(fleet)
        return fleet

    def _where(self) -> str:
        """Say where more than an event is to be found; empty when nowhere."""
        places = []
        if self.http is not None:
            places.append(f"{self.http.url}/")
        if self.settings.events != "-":
            places.append(f"timers report {os.path.abspath(self.settings.events)}")
        return " or ".join(places)

    @property
    def address(self) -> Address | None:
        """Where HTTP is really served."""
        return None if self.http is None else self.http.address

    def start(self) -> None:
        """Watch timers and answer requests.

        :raises SettingsError: this user may start no more threads. Call :meth:`stop` all the same.
        """
        if self.http is not None:
            self.server.reached_by["url"] = self.http.url
        try:
            self.server.start()
            self.view.is_ready = True
            if self.http is not None:
                app = make_app(
                    self.view,
                    token=self.settings.token,
                    local_only=self.http.address.is_loopback,
                )
                self.http.start(app)
        except RuntimeError as error:
            raise SettingsError(f"the service cannot start: {error}") from None
        for notice in self._notices:
            self.say(notice)
        if not (self.settings.events_chosen or os.isatty(2)):
            write_line(f"events go to {self.settings.events}")
        if self._stall_watch is not None:
            self._stall_watch.start()
        if self._learner is not None:
            self._learner.start(self.server.statistics)
        if self._fleet is not None:
            self._fleet.start()

    def wait_until_joined(self, seconds: float) -> bool:
        """Wait until this host takes part in the roll calls of its job; return whether it does."""
        return self._fleet is not None and self._fleet.wait_until_joined(seconds)

    def _note(self, message: str, severity: str) -> None:
        """Say something in an event alone."""
        self.pipeline.emit(
            Notice(
                timestamp=time.time(),
                run_id=self.settings.run_id,
                message=message,
                severity=severity,
            )
        )

    def say(self, message: str, severity: str = "warning") -> None:
        """Say something to people: as an event and, unless events are seen there, on stderr.

        As an event alone when the events go to stderr, where each line is a JSON object then, or
        when a terminal shows them.
        """
        self._note(message, severity)
        if self.settings.events != "-" and not os.isatty(2):
            write_line(message)

    def stop_watching(self) -> None:
        """End the timer server; a reap under way is finished first, within its bounds."""
        self.view.is_ready = False
        if self._stall_watch is not None:
            self._stall_watch.stop()
        self.server.stop()
        if self._fleet is not None:
            self._fleet.stop()
        if not self._told_durations:
            self._told_durations = True
            for event in scope_durations(self.server.statistics, self.settings.run_id):
                self.pipeline.emit(event)
        if self._learner is not None:
            self.pipeline.flush(CLOSE_SECONDS)  # of what went wrong at the end
            self._learner.stop()

    def unseen(self) -> float:
        """Return for how many seconds to stay until each scraper has seen the last reap."""
        return 0.0 if self.http is None else self.view.scrapes.waits_for(self.view.reaps_so_far())

    def stop(self) -> None:
        """End everything and deliver what is left to say. Idempotent."""
        self.stop_watching()
        if self.http is not None:
            self.http.stop()
        # The end of a job is no reason to cut a message about it off.
        hook = 0.0 if self.settings.on_hang is None else HOOK_SECONDS
        self.pipeline.close(CLOSE_SECONDS + hook)


def write_line(message: str) -> None:
    """Write a line for people to stderr, in one piece; it is nobody's failure if that fails."""
    with contextlib.suppress(OSError):
        os.write(2, f"timers: {message}\n".encode("utf-8", "backslashreplace"))


def _take_stacks(
    _run_id: str, expired_timers: dict[int, list[str]], *, until: float, native: bool
) -> dict[int, stacks.StackDump]:
    """The step before the kill that only takes stacks; the events report them."""
    return {
        pid: add_open_files(stacks.take(pid, timeout=left(until), native=native))
        for pid in expired_timers
    }
