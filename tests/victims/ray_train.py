"""A training of Ray Train with two ranks, of which one gets stuck at its first attempt.

``ray_train.py EVENTS MARKS``: as ``ray_cluster.py``. Prints what rank 0 reported last.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import observability.ray
import timers

ray: Any = importlib.import_module("ray")
train: Any = importlib.import_module("ray.train")


def training(config: dict[str, str]) -> None:
    rank = train.get_context().get_world_rank()
    mark = os.path.join(config["marks"], "rank")
    for step in range(3):
        with timers.expires(after=3, scope="train_step"):
            if rank == 1 and step == 1 and not os.path.exists(mark):
                with open(mark, "w", encoding="utf-8"):
                    pass
                receive, _send = os.pipe()
                os.read(receive, 1)  # for ever
        train.report({"step": step})  # a barrier of all ranks


def main(events: str, marks: str) -> None:
    trainers: Any = importlib.import_module("ray.train.v2.api.data_parallel_trainer")
    directory = os.environ["RAY_TMPDIR"]
    watch = observability.ray.start(
        events=events,
        level="info",
        directory=os.path.join(directory, "t"),
        num_cpus=3,
        object_store_memory=80 << 20,
        include_dashboard=False,
    )
    result = trainers.DataParallelTrainer(
        training,
        train_loop_config={"marks": marks},
        scaling_config=train.ScalingConfig(num_workers=2),
        run_config=train.RunConfig(
            storage_path=os.path.join(directory, "results"),
            failure_config=train.FailureConfig(max_failures=1),
        ),
    ).fit()
    print(result.metrics, flush=True)
    watch.stop()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
