"""Whatever a stranger writes can be shown, encoded and computed with."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.untrusted import encodable, number, printable, replaced

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates, too
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_printable_writes_out_what_moves_a_cursor() -> None:
    assert printable("größe 漢字 ok") == "größe 漢字 ok"
    assert (
        printable("\x1b[2J\n\r\x00\x9b\u2028\udc80") == "\\x1b[2J\\x0a\\x0d\\x00\\x9b\\u2028\\udc80"
    )


@given(ANY_TEXT)
def test_what_is_printable_is_one_line_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown


@given(ANY_TEXT)
def test_what_is_encodable_keeps_everything_but_surrogates(text: str) -> None:
    shown = encodable(text)
    shown.encode()
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert shown == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (-0.5, -0.5), (True, None), ("1", None), (None, None), ([], None)]
    + [(bad, None) for bad in (math.nan, math.inf, -math.inf, 1e16, 10**400)],
)
def test_a_number_is_one_of_seconds_or_a_count(value: object, expected: float | None) -> None:
    assert number(value) == expected


@pytest.mark.slow
@given(PLAIN)
def test_every_leaf_of_a_kind_is_replaced(value: object) -> None:
    changed = replaced(replaced(value, str, encodable), float, lambda _: 0.5)
    json.dumps(changed, allow_nan=False, ensure_ascii=False).encode("utf-8")
    assert [replaced(value, bytes, len)] == [value]
