"""Objects that are known for as long as they live, whoever adds or forgets some meanwhile.

:class:`weakref.WeakSet` is looked through by Python code, between whose bytecodes another thread, a
signal handler or a finalizer may add something: "Set changed size during iteration" would be raised
in whatever the user was doing. And one whose thread was at it when the process forked never forgets
anything again. Here every step is one call into C.
"""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

__all__ = ["Living"]

T = TypeVar("T")


class Living(Generic[T]):
    """A weak set of hashable objects.

    Safe from several threads, signal handlers and finalizers, and across fork.
    """

    __slots__ = ("_references",)

    def __init__(self) -> None:
        self._references: set[weakref.ref[T]] = set()

    def add(self, member: T) -> None:
        """Know ``member`` until it is gone. Idempotent."""
        self._references.add(weakref.ref(member, self._references.discard))

    def discard(self, member: T) -> None:
        """Forget ``member``, if it is known."""
        self._references.discard(weakref.ref(member))

    def members(self) -> list[T]:
        """Those that live at this moment, in no order."""
        references = self._references.copy()
        return [member for found in references if (member := found()) is not None]
