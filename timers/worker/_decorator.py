"""``expires`` as a decorator: a block for each call, for as long as the call goes on."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from contextlib import AbstractContextManager

    Blocks = Callable[[], AbstractContextManager[None]]

__all__ = ["guard"]

P = ParamSpec("P")
R = TypeVar("R")


def guard(function: Callable[P, R], make: Blocks) -> Callable[P, R]:
    """Return ``function`` with each call in a block that ``make`` makes."""
    if inspect.iscoroutinefunction(function):
        guarded: Callable[..., Any] = _coroutine(function, make)
    elif inspect.isasyncgenfunction(function):
        guarded = _async_generator(function, make)
    elif inspect.isgeneratorfunction(function):
        guarded = _generator(function, make)
    else:
        guarded = _function(function, make)
    return cast("Callable[P, R]", functools.wraps(function)(guarded))


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
        block.__enter__()
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            block.__exit__(type(error), error, error.__traceback__)
            raise
        if hasattr(type(result), "__await__"):
            return _until_done(block, result)
        block.__exit__(None, None, None)
        return result

    return guarded


def _until_done(block: AbstractContextManager[None], result: Any) -> Any:
    """Leave ``block`` when ``result`` is done. A future stays the object that it is."""
    when_done = getattr(result, "add_done_callback", None)
    if when_done is None:
        return _awaiting(block, result)
    when_done(lambda _: block.__exit__(None, None, None))
    return result


async def _awaiting(block: AbstractContextManager[None], result: Awaitable[Any]) -> Any:
    try:
        value = await result
    except BaseException as error:
        block.__exit__(type(error), error, error.__traceback__)
        raise
    block.__exit__(None, None, None)
    return value
