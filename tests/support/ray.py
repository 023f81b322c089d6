"""Ray where it is installed: clusters as small as they can be."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

__all__ = ["SMALL", "require_ray"]

SMALL: dict[str, Any] = {
    "num_cpus": 2,
    "object_store_memory": 80 << 20,
    "include_dashboard": False,
}
"""Of a node."""


def require_ray() -> None:
    """Skip the calling test module without Ray, which is not among what the CI installs."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip(
            "Ray is not installed; it comes with the extra: pip install -e '.[ray]'",
            allow_module_level=True,
        )
