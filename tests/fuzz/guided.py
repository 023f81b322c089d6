"""The run by coverage: ``python -m fuzz.guided TARGET [libFuzzer's options] FOLDER...``.

In a process of its own: atheris has to be there before what it watches is imported, and libFuzzer
ends the process itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import shlex
import sys
from typing import Any

__all__ = ["REASON", "is_installed", "main"]

REASON = (
    "atheris is not installed, so inputs are made up without a look at coverage; it comes with the "
    "extra: pip install -e '.[test,fuzz]'"
)


def is_installed() -> bool:
    """Whether there is what it takes."""
    return importlib.util.find_spec("atheris") is not None


def main(arguments: list[str]) -> None:
    """Fuzz the target named first; the rest is for libFuzzer. Does not return."""
    atheris: Any = importlib.import_module("atheris")  # which has no types, and may be missing
    name, *rest = arguments
    with atheris.instrument_imports(include=["timers", "observability"]):
        from fuzz.target import load

        target = load(name)
    from fuzz.mutation import json_line

    def change(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.5:
            data = json_line(chance, data)[:most]
        return bytes(atheris.Mutate(data, most))

    # A merge starts itself anew, by a shell: with this as its command.
    itself = shlex.join([sys.executable, "-m", "fuzz.guided", name])
    with target.open() as try_one:
        atheris.Setup([itself, *rest], try_one, custom_mutator=change)
        # Ends the process without a word to Python: what the target started notices the end of its
        # input, and its files are in the folder that the command removes.
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
