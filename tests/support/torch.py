"""PyTorch where it is installed: what the interoperability tests compare with and talk to."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import pytest

__all__ = ["require_torch", "torch_module"]

_OFF = ("", "0", "false")


def require_torch() -> None:
    """Skip the calling test module without PyTorch; in CI (``CI`` is set) that is a failure.

    Does not import it, which takes seconds: most tests need it only in other processes.
    """
    if importlib.util.find_spec("torch") is not None:
        return
    reason = "PyTorch is not installed; it comes with the extra: pip install -e '.[test,torch]'"
    if os.environ.get("CI", "").lower() not in _OFF:
        pytest.fail(f"{reason} (in CI these tests must not be skipped)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def torch_module(name: str = "") -> Any:
    """Import ``torch.distributed.elastic.timer``, or the module of that ``name`` inside it.

    By name, so that a type checker needs neither PyTorch nor the minutes it takes to read it.
    """
    return importlib.import_module(f"torch.distributed.elastic.timer{name and '.'}{name}")
