"""``expires`` as a decorator: a block for each call, for as long as the call goes on."""

from __future__ import annotations

import functools
from types import CodeType, MethodType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from contextlib import AbstractContextManager
    from typing import Protocol

    class Block(AbstractContextManager[None, None], Protocol):
        """An object of ``expires``."""

        _ticket: int | None
        """None when it is not entered."""

    Blocks = Callable[[], Block]

P = ParamSpec("P")
R = TypeVar("R")

# Bits of a code object's co_flags, as the documentation of inspect lists them. Not by inspect
# itself: it is slow to import, and an import in a call can be cut in half by a fork elsewhere.
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200


def guard(function: Callable[P, R], make: Blocks) -> Callable[P, R]:
    """Return ``function`` with each call in a block that ``make`` makes."""
    flags = _flags(function)
    if flags & _COROUTINE:
        guarded: Callable[..., Any] = _coroutine(function, make)
    elif flags & _ASYNC_GENERATOR:
        guarded = _async_generator(function, make)
    elif flags & _GENERATOR:
        guarded = _generator(function, make)
    else:
        guarded = _function(function, make)
    return cast("Callable[P, R]", functools.wraps(function)(guarded))


def _flags(function: object) -> int:
    """Return the flags of its code, or of what it is a method or a partial of; 0 without code."""
    while isinstance(function, MethodType | functools.partial):
        function = function.__func__ if isinstance(function, MethodType) else function.func
    code = getattr(function, "__code__", None)
    return code.co_flags if isinstance(code, CodeType) else 0


def _coroutine(function: Callable[..., Any], make: Blocks) -> Callable[..., Any]:
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        with make():
            return await function(*args, **kwargs)

    return guarded


def _generator(function: Callable[..., Any], make: Blocks) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with make():
            return (yield from function(*args, **kwargs))

    return guarded


def _async_generator(function: Callable[..., Any], make: Blocks) -> Callable[..., Any]:
    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with make():
            generator = function(*args, **kwargs)
            step = generator.asend(None)
            while True:
                try:
                    value = await step
                except StopAsyncIteration:
                    return
                try:
                    sent = yield value
                except GeneratorExit:
                    await generator.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001  # it is for the generator
                    step = generator.athrow(error)
                else:
                    step = generator.asend(sent)

    return guarded


def _function(function: Callable[..., Any], make: Blocks) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        block = make()
        try:
            block.__enter__()
            result = function(*args, **kwargs)
            if hasattr(type(result), "__await__"):
                return _until_done(block, result)
            block.__exit__(None, None, None)
        except BaseException as error:
            _leave(block, error)
            raise
        return result

    return guarded


def _leave(block: Block, error: BaseException | None) -> None:
    """Leave ``block``, unless that was interrupted when it was done."""
    if block._ticket is not None:
        kind = None if error is None else type(error)
        block.__exit__(kind, error, None)


def _until_done(block: Block, result: Any) -> Any:
    """Leave ``block`` when ``result`` is done. A future stays the object that it is."""
    when_done = getattr(result, "add_done_callback", None)
    if when_done is None:
        return _awaiting(block, result)
    when_done(lambda _: _leave(block, None))
    return result


async def _awaiting(block: Block, result: Awaitable[Any]) -> Any:
    try:
        value = await result
        block.__exit__(None, None, None)
    except BaseException as error:
        _leave(block, error)
        raise
    return value
