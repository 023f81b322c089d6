"""What a job is called, so that the watchdogs of several hosts agree on it without an option."""

from __future__ import annotations

import os
import re
import secrets
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["RUN_ID_VARIABLES", "run_id_of"]

RUN_ID_VARIABLES = (
    "TORCHELASTIC_RUN_ID",
    "PET_RDZV_ID",  # torchrun's own variable for --rdzv-id, which Kubeflow sets
    "RAY_JOB_ID",
    "SLURM_JOB_ID",
    "PMIX_NAMESPACE",
    "JOBSET_NAME",  # by the downward API, see examples/kubernetes
)
"""Where a launcher says what it calls the job; the innermost launcher comes first."""
_NO_NAMES = ("", "none")
"""What torchrun calls every job that was given no name."""
_TORCHRUN = re.compile(r"(^|/)torchrun$|^torch\.distributed\.(run|launch)$")
_OPTION = re.compile(r"--rdzv[-_]id(?:=(.*))?", re.DOTALL)


def run_id_of(environment: Mapping[str, str], command: Sequence[str] = ()) -> str:
    """Return what the launcher calls the job; without a launcher a name made of the time.

    :param environment: that of this process.
    :param command: what is going to be started: a torchrun among it names the job by its options.
    """
    name = _of_torchrun(command)
    names = [name, *(environment.get(variable, "") for variable in RUN_ID_VARIABLES)]
    known = next((each for each in names if each not in _NO_NAMES), None)
    if known is not None:
        return known
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{moment}-{secrets.token_hex(3)}"


def _of_torchrun(command: Sequence[str]) -> str:
    starts = (number for number, word in enumerate(command) if _TORCHRUN.search(word))
    start = next(starts, None)
    if start is None:
        return ""
    words = command[start + 1 :]
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word == "--" or (not word.startswith("-") and os.path.splitext(word)[1] == ".py"):
            break  # from here on they are the options of the script
        found = _OPTION.fullmatch(word)
        if found is not None:
            return following if found[1] is None else found[1]
    return ""
