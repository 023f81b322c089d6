"""What a client does when a request cannot be delivered: raise, or go on unwatched."""

from __future__ import annotations

import logging
import os

_logger = logging.getLogger(__name__)
_VARIABLE = "TIMERS_ON_ERROR"
_CHOICES = ("raise", "warn")


class ErrorPolicy:
    """The choice of one client, and the count of what it let pass.

    :param on_error: ``"raise"`` or ``"warn"``; None takes the environment's ``TIMERS_ON_ERROR``,
        and ``"raise"``, torch's behaviour, without one.
    :raises ValueError: for any other choice, naming where it came from.
    """

    def __init__(self, on_error: str | None) -> None:
        origin = "on_error="
        if on_error is None:
            on_error = os.environ.get(_VARIABLE) or "raise"
            origin = f"environment variable {_VARIABLE}="
        if on_error not in _CHOICES:
            raise ValueError(f"{origin}{on_error!r}: must be one of {', '.join(_CHOICES)}")
        self.choice = on_error
        self._logged = False
        self.failures = 0
        """How many requests were not delivered and not raised."""

    def failed(self, error: Exception) -> None:
        """Raise ``error`` or, failing open, count it and log that once. Call it from ``except``."""
        self.unwatched(error)
        self.failures += 1

    def unwatched(self, error: Exception) -> None:
        """Raise ``error`` or, failing open, log it once."""
        if self.choice == "raise":
            try:
                raise error
            finally:
                del error  # it knows this frame, which would know it in turn
        if not self._logged:
            self._logged = True
            _logger.warning(
                "%s: the code goes on without timers (further failures are only counted)", error
            )
