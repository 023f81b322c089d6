"""Whether tests try more cases, for longer: ``TIMERS_LONG_TESTS``."""

from __future__ import annotations

import os

__all__ = ["LONG"]

LONG = bool(os.environ.get("TIMERS_LONG_TESTS"))
