"""How much is measured: enough for figures, or just enough to see that everything works."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

__all__ = ["Effort"]

T = TypeVar("T")


class Effort(NamedTuple):
    """Given to every benchmark."""

    quick: bool = False
    """A smoke run: seconds, and figures that mean nothing."""
    torch: bool = True
    """Whether torch's rows are wanted; they need it to be installed."""

    def of(self, full: T, quick: T) -> T:
        """Choose between what a real run and a smoke run take."""
        return quick if self.quick else full
