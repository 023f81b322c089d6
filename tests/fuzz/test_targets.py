"""Each target, fed with what Hypothesis makes of its words and its corpus."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import corpus
from fuzz.target import NAMES, load

_EXAMPLES = {"http": 30, "socket": 40, "pipe": 60}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_made_of_its_words(name: str) -> None:
    target = load(name)
    words = st.sampled_from([*target.tokens, *corpus.read(name)])
    pieces = st.lists(words | st.binary(max_size=10), max_size=8)
    tried = []

    with target.open() as try_one:

        @settings(
            max_examples=_EXAMPLES.get(name, 100), deadline=None, derandomize=True, database=None
        )
        @given(st.integers(0, 255), pieces)
        def inner(first: int, rest: list[bytes]) -> None:
            data = bytes([first]) + b"".join(rest)
            try_one(data[: target.longest])
            tried.append(data)

        inner()
    assert len(tried) >= 20
