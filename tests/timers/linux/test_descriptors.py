"""Which descriptors are kept for what is needed for a moment only."""

from __future__ import annotations

import os
import resource

import pytest

from timers.linux.descriptors import is_reserved


@pytest.mark.parametrize(
    ("limit", "first"), [(1024, 960), (256, 192), (120, 90), (4, 3), (1 << 20, (1 << 20) - 64)]
)
def test_the_last_ones_are_reserved(
    monkeypatch: pytest.MonkeyPatch, limit: int, first: int
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _what: limit)
    assert not is_reserved(0)
    assert not is_reserved(first - 1)
    assert is_reserved(first)
    assert is_reserved(limit - 1)


def test_without_a_limit_there_are_no_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _what: -1)
    assert not is_reserved(10**6)
    monkeypatch.setattr(os, "sysconf", lambda _what: 1)
    assert is_reserved(10**6)


def test_the_limit_is_the_one_that_holds_now() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert not is_reserved(191)
        assert is_reserved(192)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
