"""What a timer server tells people and machines: logs and metrics, with no risk to a reap.

One call attaches it to a server, before the server is started::

    import timers
    import observability

    server = timers.FileTimerServer("/tmp/timers.pipe", run_id="train-7")
    pipeline = observability.attach(server, events="/var/log/train-7.jsonl")
    server.start()
    ...
    server.stop()
    pipeline.close()

For torch's own ``FileTimerServer``, make the pipeline first and pass its ``log_event``::

    pipeline = observability.open_pipeline(run_id="train-7")
    server = torch.distributed.elastic.timer.FileTimerServer(
        path, "train-7", log_event=pipeline.log_event
    )

This package may import :mod:`timers`; never the other way round. The map::

    pipeline.py           events from servers to sinks: bounded, isolated, counted
    sinks/                log, metrics, spans, last reaps
    service.py            a server with everything around it, for timers run and timers serve
    duration.py           durations as people write them
    settings.py           what a service is asked to do
    events.py             the events of the service, next to those of the server
    story.py              what led to a reap, added to the event of its end
    worker_notes.py       what is said where a reaped worker's launcher and user look
    fields.py             an event as one flat dictionary
    message.py            an event in one sentence for a person
    untrusted.py          what strangers wrote, made safe to show and to encode
    scope_durations.py    how long the scopes of a run took, as events
    giving_up.py          notices that starting a job again is no use
    learning.py           how long scopes take, kept for the deadlines of the next run
    sampling/             take samples of live processes
    samples/              what the samples of one worker show
    recorder/             what PyTorch's flight recorder says
    hang/                 who waits for whom
    fleet/                one job on many hosts
    ray/                  a watchdog on each node of a Ray cluster
    explain/              timers explain
    stall/                notices when nothing of a job moves
    report/               timers report
    http/                 what the service answers over HTTP
    cli/                  the timers command
    __main__.py           python -m observability: the same command
    README.md             events, metrics, spans and the command
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from typing import TYPE_CHECKING, Any

from timers.server.observers.event_queue import Observers

from .pipeline import Pipeline, Sink, SinkCounts
from .sinks.trace_ids import logs_wanted, spans_wanted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_logger = logging.getLogger(__name__)

__all__ = ["Pipeline", "Sink", "SinkCounts", "attach", "open_pipeline"]


def open_pipeline(
    *,
    events: str | os.PathLike[str] | None = "-",
    level: str = "info",
    include: Collection[str] = (),
    exclude: Collection[str] = (),
    dump_directory: str | os.PathLike[str] | None = None,
    run_id: str = "",
    sinks: Iterable[Sink] = (),
    verbose: bool = False,
    names: str = "plain",
    spans: bool | None = None,
    spans_kept: str = "all",
    capacity: int = 10_000,
) -> Pipeline:
    """Make a pipeline with a log, spans when they are asked for, and further sinks if given.

    :param events: where log lines go: a path, ``"-"`` for standard error, None for nowhere.
    :param level: the lowest level that is logged: ``debug``, ``info``, ``warning`` or ``error``.
    :param include: names of events that are logged whatever their level.
    :param exclude: names of events that are never logged.
    :param dump_directory: where stacks that are too large for a log line go as a whole.
    :param run_id: for events that carry none.
    :param sinks: see :mod:`observability.pipeline`.
    :param verbose: whether a terminal is shown every event with all its fields.
    :param names: how the fields of log lines are named: ``plain``, or ``otel`` as in
        OpenTelemetry's log data model.
    :param spans: whether each scope becomes an OpenTelemetry span; None leaves it to the standard
        ``OTEL_...`` variables (:mod:`observability.sinks.otlp.spans`).
    :param spans_kept: which scopes become spans: ``all``, ``slow`` or ``failed``.
    :param capacity: how many events may wait for each sink.
    :raises OSError: a file or directory cannot be opened.
    :raises ValueError: unknown ``level`` or ``names``, ``capacity`` below 1, or two sinks of the
        same name.
    """
    all_sinks = list(sinks)
    if events is not None:
        from .sinks.log import LogSink  # noqa: PLC0415 - structlog is loaded only by those who log

        all_sinks.insert(
            0,
            LogSink(
                events,
                level=level,
                include=include,
                exclude=exclude,
                run_id=run_id,
                dump_directory=dump_directory,
                verbose=verbose,
                names=names,
            ),
        )
    all_sinks += _otel_sinks(
        run_id, spans=spans is not False, kept=spans_kept, logged=(level, include, exclude)
    )
    return Pipeline(*all_sinks, run_id=run_id, capacity=capacity)


def _otel_sinks(
    run_id: str,
    *,
    spans: bool,
    kept: str,
    logged: tuple[str, Collection[str], Collection[str]],
) -> Iterator[Sink]:
    if spans and spans_wanted(os.environ):
        with _an_extra("spans"):
            from .sinks.otlp.spans import SpanSink, exporter_from_environment  # noqa: PLC0415 - an extra

            yield SpanSink(exporter_from_environment(), run_id=run_id, kept=kept)
    if logs_wanted(os.environ):
        with _an_extra("logs"):
            from .sinks.filters import EventFilter  # noqa: PLC0415 - only for those who export logs
            from .sinks.otlp.logs import LogRecordSink, log_exporter_from_environment  # noqa: PLC0415 - an extra

            yield LogRecordSink(
                log_exporter_from_environment(), EventFilter(*logged), run_id=run_id
            )


@contextlib.contextmanager
def _an_extra(what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        _say_that_otel_is_impossible(what, str(error))


@functools.cache
def _say_that_otel_is_impossible(what: str, why: str) -> None:
    _logger.warning(
        "the environment asks for OpenTelemetry %s, and they cannot be exported: %s; "
        "pip install 'expiration-timers[otel]'",
        what,
        why,
    )


def attach(server: Any, *, run_id: str | None = None, **options: Any) -> Pipeline:
    """Make a pipeline and attach it to ``server``, which must not have been started yet.

    An observer that was given to the server is kept; without one it wrote its events to the
    ``timers.events`` logger, and no longer does. Several servers can share one pipeline: attach
    the first, then set ``observer`` of the others and call :meth:`Pipeline.watch`.

    :param server: one of this package's servers, or a subclass of ``timers.TimerServer``: anything
        with an ``observer`` that can be set and with ``statistics``.
    :param run_id: by default the server's own.
    :param options: those of :func:`open_pipeline`.
    :raises TypeError: ``server`` has no ``observer`` or no ``statistics``.
    :raises OSError: a file or directory cannot be opened.
    :raises ValueError: see :func:`open_pipeline`.
    """
    if not (hasattr(server, "observer") and hasattr(server, "statistics")):
        raise TypeError(
            f"cannot attach a pipeline to {type(server).__name__}: it has no 'observer' and"
            " 'statistics'. For torch's FileTimerServer, pass log_event=open_pipeline().log_event"
            " to its constructor"
        )
    if run_id is None:
        run_id = str(getattr(server, "run_id", "") or "")
    pipeline = open_pipeline(run_id=run_id, **options)
    known = server.observer
    server.observer = pipeline if known is None else Observers(known, pipeline)
    pipeline.watch(server.statistics)
    return pipeline
