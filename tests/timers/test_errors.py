"""The tree of errors: ours to catch as one, and what torch's users and Python's expect."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle

import pytest

import timers
from timers import errors

STANDARD: dict[type[Exception], type[Exception]] = {
    errors.ClientNotConfiguredError: RuntimeError,
    errors.InsecurePathError: PermissionError,
    errors.NoServerError: BrokenPipeError,
    errors.RequestTooLargeError: RuntimeError,
    errors.ServerRunningError: FileExistsError,
    errors.PathOccupiedError: FileExistsError,
    errors.UnsupportedPlatformError: OSError,
}


def test_every_error_is_known_here() -> None:
    assert {getattr(errors, name) for name in errors.__all__} - {errors.TimerError} == set(STANDARD)
    assert timers.TimerError is errors.TimerError


@pytest.mark.parametrize("kind", STANDARD, ids=lambda kind: kind.__name__)
def test_an_error_is_ours_and_the_standard_one(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.TimerError)
    assert issubclass(kind, STANDARD[kind])
    assert inspect.getdoc(kind)


@pytest.mark.parametrize("kind", STANDARD, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling_with_what_it_knows(kind: type[Exception]) -> None:
    # From a worker of multiprocessing to its parent, for one.
    error: Exception = kind("what happened")
    if issubclass(kind, OSError):
        error = kind(errno.EEXIST, "what happened", "/tmp/pipe")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert (twin.args, str(twin)) == (error.args, str(error))
        for name in ("errno", "strerror", "filename"):
            assert getattr(twin, name, None) == getattr(error, name, None)


def test_the_errno_stays_what_it_was_given() -> None:
    # BrokenPipeError and FileExistsError must not be turned into another class by their errno.
    error = errors.NoServerError(errno.ENOENT, "no server")
    assert type(error) is errors.NoServerError
    assert error.errno == errno.ENOENT
