"""Every input that was ever worth keeping, again."""

from __future__ import annotations

import pytest

from fuzz import corpus
from fuzz.target import NAMES, load


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus(name: str) -> None:
    paths = corpus.files(name)
    assert len(paths) >= 10
    failed = []
    with load(name).open() as try_one:
        for path in paths:
            try:
                try_one(path.read_bytes())
            except Exception as error:  # noqa: BLE001  # told with all others
                failed.append(f"{path.name}: {error!r:.500}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus_is_small_and_has_nothing_twice(name: str) -> None:
    inputs = corpus.read(name)
    assert len(inputs) <= 80
    assert max(len(data) for data in inputs) <= 20_000
    assert len(set(inputs)) == len(inputs)
