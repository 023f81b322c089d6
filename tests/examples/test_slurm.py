"""``examples/slurm`` starts one watchdog on each node, all with one name for the job."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from observability.fleet.run_id import run_id_of

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "slurm" / "train.sbatch"
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "gpu-[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "8",
}
# What the script calls, in place of a cluster: srun runs its command once for each node.
TOOLS = {
    "scontrol": '[ "$*" = "show hostnames gpu-[1-2]" ] && printf "gpu-1\\ngpu-2\\n"',
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\n'
    'for node in gpu-1 gpu-2; do SLURMD_NODENAME=$node "$@"; done',
    "timers": 'printf "%s\\n" "$@" | python3 -c '
    "'import json, sys; print(json.dumps(sys.stdin.read().splitlines()))'",
}


def test_every_node_has_a_watchdog_in_front_of_torchrun(tmp_path: Path) -> None:
    for name, text in TOOLS.items():
        tool = tmp_path / name
        tool.write_text(f"#!/bin/bash\n{text}\n")
        tool.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        env={**os.environ, **SLURM, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    commands = [json.loads(line) for line in done.stdout.splitlines()]
    assert [command[:3] for command in commands] == [
        ["run", "--events", f"timers-4711-gpu-{node}.jsonl"] for node in (1, 2)
    ]
    for command in commands:
        launched = command[command.index("--") + 1 :]
        assert (launched[0], launched[-1]) == ("torchrun", "train.py")
        assert launched[launched.index("--rdzv-endpoint") + 1] == "gpu-1:29400"
        assert launched[launched.index("--nproc-per-node") + 1] == "8"
        assert run_id_of(SLURM, launched) == "4711"
