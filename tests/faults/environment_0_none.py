"""No fault at all: what the others are measured by."""

from __future__ import annotations

from .fault import Fault

__all__ = ["FAULTS"]


class Nothing(Fault):
    name = "no fault"


FAULTS = [Nothing()]
