"""A training with Lightning, which starts its second rank itself.

``lightning_training.py STUCK CALLBACK DIRECTORY [WHERE [STRATEGY]]``: the rank that gets stuck (-1
for none), and whether it has a callback of ours; without one there is no word of timers in it. It
gets stuck in its fourth step, "early", before it joins the others, or in a "batch" that it loads.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import warnings
from typing import Any

# By name, so that a type checker needs none of them.
torch: Any = importlib.import_module("torch")
lightning: Any = importlib.import_module("lightning.pytorch")
data: Any = importlib.import_module("torch.utils.data")

STUCK = int(sys.argv[1])
WHERE, STRATEGY = [*sys.argv[4:], *("step", "ddp")[len(sys.argv[4:]) :]]


def read_shard() -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)


class Model(lightning.LightningModule):  # type: ignore[misc]  # an optional package
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch: Any, number: int) -> Any:
        if WHERE == "step" and number == 3 and self.global_rank == STUCK:
            read_shard()
        return self.layer(batch[0]).sum()

    def validation_step(self, batch: Any, _number: int) -> None:
        self.layer(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.001)


class Samples(data.Dataset):  # type: ignore[misc]  # as above
    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return 16

    def __getitem__(self, _number: int) -> Any:
        self.read += 1
        if WHERE == "batch" and self.read == 6 and torch.distributed.get_rank() == STUCK:
            read_shard()
        return (torch.ones(4),)


def loader() -> Any:
    return data.DataLoader(Samples())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if WHERE == "early" and int(os.environ.get("LOCAL_RANK", "0")) == STUCK:
        read_shard()
    callbacks = []
    if sys.argv[2] == "callback":
        from timers.integrations.lightning import timers_callback

        callbacks.append(timers_callback(batch_after=60 if STUCK < 0 else 10))
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1 if callbacks else 2,
        strategy="auto" if callbacks else STRATEGY,
        callbacks=callbacks,
        default_root_dir=sys.argv[3],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model(), loader(), loader())
