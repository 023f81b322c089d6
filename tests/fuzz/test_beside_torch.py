"""What the reader of torch's own server takes of the lines that the wire target tries."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings

from fuzz import corpus
from fuzz.families import families
from fuzz.reference import as_torch
from fuzz.wire_lines import check_line
from support.torch import require_torch, torch_module

if TYPE_CHECKING:
    from pathlib import Path

require_torch()


@pytest.fixture
def torch_server(tmp_path: Path) -> Any:
    """PyTorch's server, not started: only its reader is used."""
    server = torch_module().FileTimerServer(str(tmp_path / "of-torch"), "run", 3600)
    server._run_once = True  # end at the end of the file
    return server


def read_by_torch(server: Any, line: bytes) -> tuple[Any, ...] | None:
    """The four facts that it takes from one line; None when it raises."""
    try:
        (request,) = server._get_requests(io.StringIO(line.decode()), 3600)
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return None
    return request.worker_pid, request.scope_id, request.expiration_time, request.signal


def check(server: Any, line: bytes) -> bool:
    """Whether torch takes it; we do, too, unless it is documented that we do not."""
    if not line or b"\r" in line:  # the end of the file, and of a line, to text that is read
        return False
    facts = read_by_torch(server, line)
    assert repr(facts) == repr(as_torch(line))  # NaN is not equal to itself
    check_line(line)
    return facts is not None


def test_every_line_of_the_corpus(torch_server: Any) -> None:
    lines = {line for data in corpus.read("wire") for line in data.split(b"\n")}
    assert sum(check(torch_server, line) for line in lines) > 50


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(families())
def test_lines_that_are_nearly_the_same(torch_server: Any, lines: list[bytes]) -> None:
    for line in lines:
        for part in line.split(b"\n"):
            check(torch_server, part)
