"""Nothing fails for want of what is optional; what is missing is said once, clearly."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Stands in for a machine without the package: the import system knows nothing of it.
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r} or name.startswith({package!r} + "."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
EVERY_MODULE = """
import importlib, pkgutil, timers, observability
for package in (timers, observability):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        otlp = module.name.startswith("observability.sinks.otlp.")
        if not otlp and module.name != "observability.__main__":
            importlib.import_module(module.name)
print("imported")
"""
PIPELINE = """
import logging, observability
logging.basicConfig(format="%(message)s")
pipeline = observability.open_pipeline(events=None)
observability.open_pipeline(events=None).close()
print(list(pipeline.sink_counts))
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.process
@pytest.mark.parametrize("package", ["opentelemetry.sdk", "opentelemetry.exporter", "torch"])
def test_every_module_is_imported_without(package: str) -> None:
    result = python(WITHOUT.format(package=package) + EVERY_MODULE)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "imported\n"


@pytest.mark.parametrize("package", ["opentelemetry.sdk", "opentelemetry.exporter"])
def test_spans_that_are_wanted_and_impossible_are_said_once(package: str) -> None:
    result = python(
        WITHOUT.format(package=package) + PIPELINE,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318",
    )
    assert (result.returncode, result.stdout) == (0, "[]\n")
    assert result.stderr.count("pip install 'expiration-timers[otel]'") == 1


@pytest.mark.parametrize("package", ["opentelemetry.sdk", "opentelemetry.exporter"])
def test_logs_that_are_wanted_and_impossible_are_said_once(package: str) -> None:
    result = python(
        WITHOUT.format(package=package) + PIPELINE,
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT="http://127.0.0.1:4318/v1/logs",
    )
    assert (result.returncode, result.stdout) == (0, "[]\n")
    assert result.stderr.count("pip install 'expiration-timers[otel]'") == 1


def test_nothing_is_said_when_no_spans_are_wanted() -> None:
    result = python(WITHOUT.format(package="opentelemetry.sdk") + PIPELINE)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")
