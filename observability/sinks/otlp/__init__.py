"""Sinks that export over OTLP; they need the ``otel`` extra.

The map::

    spans.py       one span for each scope
    logs.py        events as log records, in the trace of the scope that they are about
    _batches.py    what both share: the resource, the bound of one export, batches
"""
