"""A worker with OpenTelemetry active: traced.py PIPE MODE, exporting where the environment says.

PIPE is - for the one in the environment.

Its spans: "train" around the scope "step", and "inside" within it. MODE says how "step" ends.
"""

from __future__ import annotations

import os
import sys
import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import timers

path, mode = sys.argv[1:]
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(timeout=5)))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("victim")
if path == "-":
    timers.configure_from_env()
else:
    timers.configure(timers.FileTimerClient(path))


def step() -> None:
    with timers.expires(after=0.5 if mode == "stuck" else 60, scope="step"):
        with tracer.start_as_current_span("inside"):
            pass
        if mode == "raise":
            raise KeyError("what the block raised")
        if mode == "exit":
            os._exit(0)
        if mode in ("stuck", "wait"):
            time.sleep(3600)


print("ready", flush=True)
if mode == "root":
    with timers.expires(after=60, scope="step"), tracer.start_as_current_span("inside"):
        pass
else:
    with tracer.start_as_current_span("train"):
        try:
            step()
        except KeyError:
            print("raised", flush=True)
provider.shutdown()
