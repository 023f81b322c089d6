"""A training with Hugging Face's Trainer on the CPU.

``transformers_training.py STUCK CALLBACK DIRECTORY [RANK]``: the step that gets stuck (-1 for
none), whether it has a callback of ours; without one there is no word of timers in it, and the only
rank that gets stuck, where it is one of several.
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
transformers: Any = importlib.import_module("transformers")
data: Any = importlib.import_module("torch.utils.data")

STUCK = int(sys.argv[1])
HERE = sys.argv[4:] in ([], [os.environ.get("RANK")])


def read_shard() -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)


class Model(torch.nn.Module):  # type: ignore[misc]  # an optional package
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        if self.calls == STUCK and HERE:
            read_shard()
        found = self.layer(x)
        return {"loss": found.sum(), "logits": found}


class Samples(data.Dataset):  # type: ignore[misc]  # as above
    def __len__(self) -> int:
        return 16

    def __getitem__(self, _number: int) -> Any:
        return {"x": torch.ones(4)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    callbacks = []
    if sys.argv[2] == "callback":
        from timers.integrations.transformers import timers_callback

        callbacks.append(timers_callback(step_after=60 if STUCK < 0 else 10))
    arguments = transformers.TrainingArguments(
        output_dir=sys.argv[3],
        max_steps=8,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )
    transformers.Trainer(Model(), arguments, train_dataset=Samples(), callbacks=callbacks).train()
