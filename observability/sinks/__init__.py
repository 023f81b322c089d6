"""Where events go: one file a sink, each of which can be read and removed alone.

A sink is a callable with a name; see :mod:`observability.pipeline`. The map::

    log.py               JSON lines for machines, readable text for a terminal; structlog
    metrics.py           what a scrape is answered; prometheus-client
    otlp/                spans, and events as log records; opentelemetry
    recent.py            the last reaps, in memory, for whoever asks over HTTP
    hook.py              a command of the user's own for each hang report
    torch_requests.py    events and counts from the callback of torch's own server
    trace_ids.py         the trace that a timer belongs to, and whether spans are wanted
    filters.py           which events are logged
    otel_names.py        the fields of events under OpenTelemetry's names, and back
    bounded.py           keep a line under a fixed size
    _terminal.py         five lines for a reap, for a person at a terminal
    _dumps.py            whole events in files of their own
    _line_file.py        append lines to a file, a pipe or standard error
    _safe_paths.py       whether another user may have prepared a path
"""
