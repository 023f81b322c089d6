"""What is known so far while a dump is being taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from timers.linux.procfs import ProcessFacts

if TYPE_CHECKING:
    from .dump import ThreadStack

__all__ = ["Attempt"]


@dataclass(slots=True)
class Attempt:
    """A dump that is being taken: one thread writes it, another one reads it at the end."""

    pid: int
    native: bool
    only_native: bool
    until: float
    """By when to be done, on the clock of ``time.monotonic``."""
    method: str = "proc"
    threads: tuple[ThreadStack, ...] = ()
    facts: ProcessFacts = field(default_factory=ProcessFacts)
    errors: list[str] = field(default_factory=list)
