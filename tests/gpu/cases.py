"""The cases of :mod:`gpu.job`, and what is to be said of each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CASES", "Expected"]

STACKS_ONLY = (
    "env", "-u", "TIMERS_RECORDER_DIR", "TORCH_FR_BUFFER_SIZE=0", "TORCH_NCCL_TRACE_BUFFER_SIZE=0",
)  # fmt: skip
"""Before the job's command: no recorder answers."""
PIPES_ONLY = ("env", "-u", "TIMERS_RECORDER_DIR")
"""No worker server of torch's is started without that directory, so NCCL's pipes have to answer."""


@dataclass(frozen=True)
class Expected:
    """What is to be said of one case."""

    case: str
    ranks: tuple[int, ...] = ()
    """Accused or, of a slow run, held up by."""
    verdicts: tuple[str, ...] = ("one_suspect",)
    """Empty when nothing may be said."""
    frame: str = ""
    holds_up: str = ""
    evidence: str = "the flight recorder"
    note: str = ""
    """What is tried here that the case does not say."""
    options: tuple[str, ...] = ("--nccl-timing",)
    """Of ``timers run``; the job is started without it where there are none at all."""
    wrapper: tuple[str, ...] = ()
    plain: bool = False
    """Whether the script has no timers of its own."""
    event: str = "hang report"
    within: float = 1.0
    """Seconds from the first expiry to the report."""

    @property
    def title(self) -> str:
        """Its name."""
        return ", ".join(filter(None, (self.case, self.note)))


STALLS = ("--stall-after", "8")
CASES = (
    Expected("before_step", (2,), frame="fetch_shard", holds_up="has not joined all_reduce"),
    Expected(
        "mismatch", (1,), ("different_collectives",), holds_up="where ranks 0, 2-3 called"
    ),
    Expected("endless_kernel", (3,), holds_up="its GPU has not started it"),
    Expected(
        "endless_kernel", (), ("common_wait",), note="without NCCL's timing",
        options=("--no-nccl-timing",),
    ),
    Expected("synchronize", (3,), frame="hang", holds_up="has not joined all_reduce"),
    Expected("gil", (1,), frame="hold_the_gil", holds_up="has not joined"),
    Expected("slow", (2,), ("slow",), frame="preprocess", holds_up="has not joined"),
    Expected("stopped", (2,), frame="hang", evidence="the kernel"),
    Expected("loader", (2,), frame="fetch_shard", holds_up="has not joined all_reduce"),
    Expected("uneven_data", (3,), ("different_collectives",), frame="finish", holds_up="barrier"),
    Expected("two_groups", (3,), frame="fetch_shard", holds_up="of group 2"),
    Expected("pipeline", (1,), frame="fetch_shard", evidence=""),
    Expected(
        "before_step", (2,), frame="fetch_shard", holds_up="has not joined all_reduce",
        note="by NCCL's pipes", wrapper=PIPES_ONLY, within=2.5,
    ),
    Expected(
        "before_step", (2,), frame="fetch_shard", evidence="their stacks",
        note="without a recorder", wrapper=STACKS_ONLY, within=2.5,
    ),
    Expected(
        "endless_kernel", (), ("common_wait", "inconclusive"), evidence="",
        note="without a recorder", wrapper=STACKS_ONLY, within=2.5,
    ),
    Expected(
        "before_step", (2,), frame="fetch_shard", evidence="their stacks",
        note="a plain script, asked by timers explain", plain=True, options=(),
    ),
    Expected(
        "before_step", (2,), frame="fetch_shard", event="job stalled",
        note="a plain script that stands still", plain=True, options=STALLS,
    ),
    Expected(
        "long_steps", (), (), event="job stalled", note="a plain script that is at work",
        plain=True, options=(*STALLS, "--auto", "off"),
    ),
)  # fmt: skip
