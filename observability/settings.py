"""What a service is asked to do. Loads nothing, so that ``--help`` and completion are quick."""

from __future__ import annotations

from dataclasses import dataclass

from .http.address import DEFAULT_PORT, Address

__all__ = ["DEFAULT_ADDRESS", "Settings", "SettingsError"]

DEFAULT_ADDRESS = Address("127.0.0.1", DEFAULT_PORT)


class SettingsError(ValueError):
    """The service cannot be started as asked; the message says which option and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``timers run`` and ``timers serve`` have in common."""

    run_id: str
    http: Address | None = DEFAULT_ADDRESS
    """None for no HTTP."""
    http_fallback: bool = False
    """Whether another port may be taken when the one of ``http`` is not free."""
    token: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    insecure: bool = False
    """Whether to serve other machines without authentication."""
    events: str = "-"
    """A path, or "-" for standard error."""
    events_chosen: bool = True
    """Whether a person chose where events go; otherwise that is said."""
    names: str = "plain"
    """How the fields of events are named: plain, or otel."""
    verbose: bool = False
    """Whether a terminal is shown everything."""
    level: str = "info"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    dump_dir: str | None = None
    hang_report: bool = True
    """Whether all workers are looked at when one expires."""
    spare_seconds: float = 0.0
    """For how long a worker that only waits for a suspect is spared after its deadline."""
    host: str | None = None
    """What reports call this host; None for the name of the machine."""
    fleet: bool = True
    """Whether to take part in roll calls over all hosts of a job."""
    spans: str = "all"
    """Which scopes become spans: all, slow or failed."""
    on_hang: str | None = None
    """A command for the shell that is given each hang report."""
    sample_at: tuple[float, ...] = (0.5, 0.9)
    """Shares of a deadline at which to look at its worker beforehand."""
    sample_from: float = 10.0
    """Seconds; timers shorter than this are not sampled, with 0 none is."""
    stall_after: float = 300.0
    """Seconds without any progress of the job after which that is reported; 0 for never."""
    stall_kill: bool = False
    """Whether the suspect of a stall, where there is one, is ended."""
    learned: str | None = None
    """A file for what is learned of how long scopes take; None to learn nothing."""
    learned_chosen: bool = True
    """Whether a person chose which."""
    native: bool = False
    """Whether stacks have C frames, too."""
    max_interval: float = 10.0
