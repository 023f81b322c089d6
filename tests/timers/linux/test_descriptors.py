"""Which descriptors are kept for what is needed for a moment only."""

from __future__ import annotations

import resource

import pytest

from timers.linux.descriptors import is_reserved


@pytest.mark.parametrize(
    ("limit", "first"), [(1024, 960), (256, 192), (120, 90), (4, 3), (1 << 20, (1 << 20) - 64)]
)
def test_the_last_ones_are_reserved(
    monkeypatch: pytest.MonkeyPatch, limit: int, first: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (limit, limit))
    assert not is_reserved(0)
    assert not is_reserved(first - 1)
    assert is_reserved(first)
    assert is_reserved(limit - 1)


def test_without_a_limit_there_are_no_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _what: unlimited)
    assert not is_reserved(10**6)
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1, 1))
    assert is_reserved(10**6)
