"""Several hosts of one job agree on its name, and two jobs have two."""

from __future__ import annotations

import pytest

from observability.fleet.run_id import RUN_ID_VARIABLES, run_id_of

TORCHRUN = ("python", "-m", "torch.distributed.run")


@pytest.mark.parametrize("variable", RUN_ID_VARIABLES)
def test_the_launcher_names_the_job(variable: str) -> None:
    assert run_id_of({variable: "job-1"}) == "job-1"


@pytest.mark.parametrize(
    "command",
    [
        ("torchrun", "--nnodes", "2", "--rdzv-id", "j7", "train.py"),
        ("/opt/venv/bin/torchrun", "--rdzv_id=j7", "train.py"),
        ("env", "A=1", *TORCHRUN, "--rdzv-id=j7", "--", "train.py"),
    ],
)
def test_the_options_of_torchrun_name_it_before_it_has_set_its_variable(
    command: tuple[str, ...],
) -> None:
    assert run_id_of({"SLURM_JOB_ID": "4711"}, command) == "j7"


@pytest.mark.parametrize(
    "command",
    [
        ("torchrun", "train.py", "--rdzv-id", "mine"),
        ("torchrun", "--", "train", "--rdzv-id=mine"),
        ("python", "train.py", "--rdzv-id", "mine"),
        ("torchrun", "--rdzv-id"),
        (),
    ],
)
def test_options_of_the_script_are_no_name(command: tuple[str, ...]) -> None:
    assert run_id_of({"SLURM_JOB_ID": "4711"}, command) == "4711"


def test_what_torchrun_calls_every_unnamed_job_is_no_name() -> None:
    first, second = (run_id_of({"TORCHELASTIC_RUN_ID": "none"}) for _ in range(2))
    assert first != second
    assert "none" not in (first, second)
    assert run_id_of({"TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "9"}) == "9"
