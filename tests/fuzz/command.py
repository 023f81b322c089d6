"""``python -m tests.fuzz [TARGET]... [--minutes N | --runs N]``, from the top of the tree.

Each target is fed its corpus first, then inputs that are made up: chosen by the coverage they reach
where atheris is installed, at random where it is not. What fails is written to a file, whose name
is said; give it to --input to see it fail again. Ends with 1 when anything failed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from . import corpus
from .guided import REASON, is_installed
from .machines import MACHINES, run_at_length
from .mutation import mutate
from .target import HERE, NAMES, load

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["fuzz_at_random", "fuzz_by_coverage", "main"]

_HANG_SECONDS = 60
_MEMORY_MIB = 2048
_KEPT_BYTES = 1500
_MOST_KEPT = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzz what reads bytes of strangers."
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join([*NAMES, *MACHINES]))
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=1.0, help="for each target (default: 1)")
    length.add_argument("--runs", type=int, help="inputs for each target instead")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--random", action="store_true", help="do without coverage")
    parser.add_argument("--keep", action="store_true", help="add what reached more to the corpus")
    parser.add_argument("--input", type=Path, metavar="FILE", help="try this one input only")
    parser.add_argument(
        "--findings", type=Path, default=Path(), metavar="FOLDER", help="where what failed goes"
    )
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.targets) - {*NAMES, *MACHINES})
    if unknown:
        parser.error(
            f"no target named {', '.join(unknown)}; there are {', '.join([*NAMES, *MACHINES])}"
        )
    if options.input is not None:
        return _try_file(parser, options.targets, options.input)
    options.findings.mkdir(parents=True, exist_ok=True)
    by_coverage = is_installed() and not options.random
    if not by_coverage:
        print(f"note: {REASON}" if not options.random else "note: without a look at coverage")
    seed = options.seed or random.SystemRandom().randrange(1, 2**31)
    print(f"seed {seed}", flush=True)
    failed = []
    for name in options.targets or [*NAMES, *MACHINES]:
        began = time.monotonic()
        title = MACHINES[name].title if name in MACHINES else load(name).title
        print(f"== {name}: {title}", flush=True)
        limits = {"runs": options.runs, "seconds": options.minutes * 60}
        if name in MACHINES:
            fine = _run_machine(name, seed=seed, **limits)
        elif by_coverage:
            fine = fuzz_by_coverage(
                name, seed=seed, findings=options.findings, keep=options.keep, **limits
            )
        else:
            fine = fuzz_at_random(name, seed=seed, findings=options.findings, **limits)
        print(f"   {'ok' if fine else 'FAILED'} after {time.monotonic() - began:.0f} s", flush=True)
        if not fine:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _try_file(parser: argparse.ArgumentParser, names: Sequence[str], path: Path) -> int:
    if len(names) != 1 or names[0] not in NAMES:
        parser.error(f"--input: name the one target it is for, of {', '.join(NAMES)}")
    with load(names[0]).open() as try_one:
        try_one(path.read_bytes())
    print("ok")
    return 0


def _run_machine(name: str, *, runs: int | None, seconds: float, seed: int) -> bool:
    try:
        done = run_at_length(name, runs=runs, seconds=seconds, seed=seed)
    except Exception:  # noqa: BLE001  # whatever it found
        traceback.print_exc()
        return False
    print(f"   {done} lives")
    return True


def fuzz_by_coverage(
    name: str, *, runs: int | None, seconds: float, seed: int, findings: Path, keep: bool = False
) -> bool:
    """Run libFuzzer by way of atheris, in another process; whether nothing failed.

    :param runs: how many inputs, the corpus included; None for as many as fit into ``seconds``.
    :param findings: the folder for an input that failed.
    :param keep: whether to add to the corpus what reached more than it does.
    """
    target = load(name)
    with tempfile.TemporaryDirectory() as work:
        words = Path(work, "words")
        words.write_text("".join(path.read_text("ascii") for path in target.word_files), "ascii")
        reached = Path(work, "reached")
        reached.mkdir()
        limit = f"-max_total_time={seconds:.0f}" if runs is None else f"-runs={runs}"
        done = _libfuzzer(
            name,
            work,
            limit,
            f"-seed={seed}",
            f"-max_len={target.longest}",
            f"-timeout={_HANG_SECONDS}",
            f"-rss_limit_mb={_MEMORY_MIB}",
            f"-artifact_prefix={findings.resolve()}/{name}-",
            *([f"-dict={words}"] if target.words else []),  # an empty one is an error
            "-print_final_stats=1",
            str(reached),
            str(corpus.folder(name)),
        )
        if done == 0 and keep:
            _keep(name, work, reached)
    return done == 0


def _keep(name: str, work: str, reached: Path) -> None:
    small = [path for path in reached.iterdir() if path.stat().st_size <= _KEPT_BYTES]
    merged, known = Path(work, "merged"), Path(work, "small")
    merged.mkdir()
    known.mkdir()
    for data in [*corpus.read(name), *(path.read_bytes() for path in small)]:
        Path(known, hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    _libfuzzer(
        name,
        work,
        "-merge=1",
        "-use_counters=0",
        f"-artifact_prefix={work}/",
        str(merged),
        str(known),
    )
    before = set(corpus.read(name))
    for path in sorted(merged.iterdir(), key=lambda path: path.stat().st_size):
        data = path.read_bytes()
        if data not in before and len(corpus.files(name)) < _MOST_KEPT:
            print(f"   kept {corpus.keep(name, data).name}, {len(data)} bytes")


def _libfuzzer(name: str, work: str, *options: str) -> int:
    paths = [str(HERE.parent), str(HERE.parent.parent), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.guided", name, *options],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONHASHSEED": "0",
            "TMPDIR": work,  # what it leaves behind, since libFuzzer runs no exit handlers
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    wanted = ("DONE", "stat::", "INFO: seed corpus")
    for line in done.stdout.splitlines():
        noise = "Instrumenting" in line
        if (done.returncode and not noise) or any(word in line for word in wanted):
            print(f"   {line}")
    return done.returncode


def fuzz_at_random(
    name: str, *, runs: int | None, seconds: float, seed: int, findings: Path
) -> bool:
    """Try the corpus and then inputs made of it at random; whether nothing failed.

    The same ``seed`` and ``runs`` make the same inputs.
    """
    target = load(name)
    chance = random.Random(seed)
    known = corpus.read(name) or [b""]
    give_up = time.monotonic() + seconds
    done = 0
    with target.open() as try_one:
        while (done < runs) if runs is not None else (time.monotonic() < give_up):
            data = (
                known[done]
                if done < len(known)
                else mutate(chance, chance.choice(known), known, target.tokens, target.longest)
            )
            try:
                try_one(data)
            except Exception:  # noqa: BLE001  # whatever it found
                traceback.print_exc()
                digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
                path = findings / f"{name}-crash-{digest}"
                path.write_bytes(data)
                print(f"   the input is in {path}")
                return False
            done += 1
    print(f"   {done} inputs")
    return True
