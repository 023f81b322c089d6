"""What comes from the environment: any text is a setting, or is refused in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import timers
from observability.cli._options import make_policy, make_settings, to_users
from observability.cli.main import serve
from observability.http.address import Address
from timers.worker.environment import FILE_VARIABLES, SERVER_PID_VARIABLE, SOCKET_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CI = settings(max_examples=150, deadline=None, derandomize=True, database=None)

# What the environment of a process can hold: no NUL, and bytes that are not UTF-8 as surrogates.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
words = st.sampled_from(
    ["", "0", "1", "-1", "nan", "inf", "1e999", "9" * 5000, "9" * 30, "\u0663", "\u00b2", "_1",
     "1_0", "off", "on", "0.5,0.9", ",", "1,2", "[::1]:80", "::1", ":80", "localhost:",
     "localhost:99999", "/", "\udcff", "x" * 5000, "info", "timer released"]
)  # fmt: skip
values = words | texts

SHARED = [
    parameter.envvar
    for parameter in serve.params
    if isinstance(parameter, click.Option) and isinstance(parameter.envvar, str)
]


@pytest.fixture(autouse=True)
def configured_by_nobody() -> Iterator[None]:
    yield
    timers.configure(None)


def refusal(
    read: Callable[[], object], kinds: type[Exception] | tuple[type[Exception], ...]
) -> str:
    """What ``read`` refuses with, when it does."""
    try:
        read()
    except kinds as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        return text or "nothing was said"
    return ""


@CI
@given(st.dictionaries(st.sampled_from(SHARED), values, min_size=1, max_size=4))
@example({"TIMERS_MAX_INTERVAL": "nan"})
@example({"TIMERS_HTTP": "[::1]:" + "9" * 5000})
def test_the_service_takes_its_settings_or_says_why_not(given_: dict[str, str]) -> None:
    def read() -> None:
        context = serve.make_context("serve", [])
        found = make_settings(context)
        assert found.max_interval > 0
        assert make_policy(context).dump_timeout >= 0
        assert all(0 < share < 1 for share in found.sample_at)

    with pytest.MonkeyPatch.context() as patch:
        for name in SHARED:
            patch.delenv(name, raising=False)
        for name, value in given_.items():
            patch.setenv(name, value)
        assert refusal(read, click.ClickException) != "nothing was said"


@CI
@given(values)
def test_an_address_is_read_as_it_is_written_or_refused(text: str) -> None:
    if refusal(lambda: Address.parse(text), ValueError):
        return
    address = Address.parse(text)
    assert 0 <= address.port <= 65535
    assert Address.parse(str(address)) == address


@CI
@given(st.lists(values, max_size=3))
@example(["\u00b2"])
@example(["0", "root"])
def test_users_are_known_or_refused(names: list[str]) -> None:
    refused = refusal(lambda: to_users(names), click.UsageError)
    if refused:
        assert "--allow-user" in refused
    else:
        assert all(isinstance(user, int) for user in to_users(names))


@CI
@given(
    st.dictionaries(
        st.sampled_from([*FILE_VARIABLES, SOCKET_VARIABLE, SERVER_PID_VARIABLE, "TIMERS_OTHER"]),
        values,
    )
)
@example({SERVER_PID_VARIABLE: "9" * 5000})
def test_a_worker_is_configured_or_told_why_not(environ: dict[str, str]) -> None:
    refused = refusal(lambda: timers.configure_from_env(environ), ValueError)
    if refused:
        assert environ[SOCKET_VARIABLE]  # a path that no socket can have
    else:
        assert isinstance(timers.configure_from_env(environ), timers.TimerClient)
