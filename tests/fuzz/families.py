"""Families of lines: much of their beginning in common, some of them damaged."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

__all__ = ["GOOD", "TEXTS", "families"]

TEXTS = st.text(st.characters(codec=None, exclude_categories=[]), max_size=30)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**30), 10**30),
    st.sampled_from([2**31, -(2**31), 2**63, 10**400, 64, -64, 65, -0.0, 9223372036]),
    st.floats(),
    TEXTS,
    st.lists(st.integers(), max_size=3),
    st.just({}),
)
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "pid": st.integers(2, 2**22),
    "scope_id": TEXTS,
    "expiration_time": st.just(-1) | st.floats(0, 4e9) | st.integers(0, 2**32),
    "signal": st.integers(-64, 64),
    "start_time": st.none() | st.integers(0, 2**40),
    "thread": st.none() | st.integers(1, 2**22),
    "deadline_ns": st.none() | st.integers(0, 2**63 - 1),
    "after": st.none() | st.floats(0, 1e9) | st.integers(0, 10**9),
    "warn_after": st.none() | st.floats(0, 1e9),
    "nested": st.booleans(),
    "leave": st.booleans(),
    "error": st.none() | TEXTS,
    "traceparent": st.none() | TEXTS,
    "span_id": st.none() | TEXTS,
    "missed": st.none() | st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)),
}


# As our clients write them, at the end of an acquire, and what looks nearly like that.
_MOMENTS = st.sampled_from(
    ["1795141628.030000000", "1.5", "8999999999.999999999", "9000000000.0", "9223372036.0", "0.5",
     "1", "-1", "-1.5", "1e5", "1.5e300", "01.5", "1.", "1.0000000000", "NaN", "null", "\u0661.5"]
)  # fmt: skip
_NANOSECONDS = st.sampled_from(
    ["7", "999999999999999999", "1000000000000000000", "9223372036854775808", "0", "07", "-7",
     "7.0", "7e0", "null", "true", '"7"']
)  # fmt: skip
_FRAGMENTS = st.sampled_from(
    [b"", b"}", b",", b'"', b"\\", b" ", b"\n", b"0", b"\xff", b"{", b"[", b'": {"a": 1',
     b', "expiration_time": 5.5', b', "expiration_time": 5.5, "deadline_ns": 7}',
     b', "signal": 3', b', "version": 2', b', "pid": true', b'{"version": 1']
)  # fmt: skip


def _text(facts: dict[str, str], order: list[str]) -> bytes:
    return ("{" + ", ".join(f'"{key}": {facts[key]}' for key in order) + "}").encode(
        "utf-8", "surrogatepass"
    )


def _damaged(draw: st.DrawFn, data: bytes) -> bytes:
    place = draw(st.integers(0, len(data)) | st.integers(max(0, len(data) - 80), len(data)))
    end = place + draw(st.sampled_from((0, 1, 5)))
    return data[:place] + draw(_FRAGMENTS) + data[end:]


@st.composite
def families(draw: st.DrawFn) -> list[bytes]:
    """Lines with most of their beginning in common, some of them damaged.

    Whoever remembers beginnings of lines must not take one for another.
    """
    needed = ["pid", "scope_id", "expiration_time", "signal"]
    extras = draw(st.lists(st.sampled_from(sorted(set(GOOD) - set(needed))), unique=True))
    order = ["version", *draw(st.permutations([*needed, *extras]))]
    as_ours = draw(st.sampled_from((True, True, False)))
    if as_ours:
        last = ["expiration_time", "deadline_ns"]
        order = [key for key in order if key not in last] + last
    ascii_only = draw(st.sampled_from((True, True, False)))

    def written(key: str, *, odd: bool) -> str:
        value = draw(GOOD.get(key, ODD) | ODD if odd else GOOD[key])
        return json.dumps(value, ensure_ascii=ascii_only)

    base = {key: written(key, odd=False) for key in order if key != "version"} | {"version": "1"}
    if draw(st.sampled_from((True, False, False, False))):
        # About as long as a line may be, so that longer numbers make it too long.
        room = 4096 - len(_text(base, order)) - draw(st.integers(-10, 90))
        base["scope_id"] = json.dumps("s" * max(0, room + len(base["scope_id"]) - 2))
    lines = []
    if as_ours:  # what is there to be remembered, and to be mistaken for what follows
        lines.append(_text({**base, "expiration_time": "1.5", "deadline_ns": "7"}, order))
    for _ in range(draw(st.integers(1, 8))):
        facts = dict(base)
        if as_ours:
            facts |= {"expiration_time": draw(_MOMENTS), "deadline_ns": draw(_NANOSECONDS)}
        else:
            for key in draw(st.lists(st.sampled_from(order), max_size=2)):
                facts[key] = written(key, odd=True)
        data = _text(facts, order)
        lines.append(_damaged(draw, data) if draw(st.sampled_from((True, False, False))) else data)
    return lines
