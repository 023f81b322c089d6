"""Train a small network on handwritten digits, data-parallel, on the CPU.

Under a watchdog, rank 1 gets stuck once in the middle of it::

    timers run -- torchrun --standalone --nproc-per-node 2 --max-restarts 2 train.py

Without one, timers are off and it simply trains::

    torchrun --standalone --nproc-per-node 2 train.py
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import timers

HELD_OUT = 360
"""Of the 1,797 digits; the network never sees them in training."""


def main() -> None:
    """Train from the last checkpoint on; fail when the digits are not learned."""
    options = parse()
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    rank = join(attempt)
    watched = not isinstance(timers.configure_from_env(), timers.NoTimers)
    sticks = watched and attempt == 0 and rank == options.stuck_rank

    torch.manual_seed(0)
    train_set, held_out = load_data()
    model = DistributedDataParallel(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first_epoch = resume(options.checkpoint, model, optimizer)
    say(f"attempt {attempt}: trains from epoch {first_epoch}, timers {'on' if watched else 'off'}")

    sampler: DistributedSampler[Any] = DistributedSampler(train_set, seed=0)
    for epoch in range(first_epoch, options.epochs):
        sampler.set_epoch(epoch)
        batches = iter(DataLoader(train_set, batch_size=32, sampler=sampler))
        for step in range(len(sampler) // 32):
            # Long enough for the slowest other rank, which this one waits for in the all-reduce.
            with timers.expires(after=60, scope="step"):
                # Shorter than the step's: a rank that is stuck here goes first, and alone.
                with timers.expires(after=5, scope="load batch"):
                    if sticks and (epoch, step) == (options.stuck_epoch, 10):
                        get_stuck()
                    images, labels = next(batches)
                loss = cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()  # where the ranks meet: gradients are averaged over all of them
                optimizer.step()
        if rank == 0:
            save(options.checkpoint, epoch + 1, model, optimizer)
            print(f"epoch {epoch}: loss {loss.item():.3f}", flush=True)

    accuracy = evaluate(model, held_out)
    say(f"accuracy on {HELD_OUT} held-out digits: {accuracy:.3f}")
    if rank == 0:
        options.checkpoint.unlink()
    dist.destroy_process_group()
    leave(0 if accuracy >= options.accuracy else 1)


def parse() -> argparse.Namespace:
    """Read the command line."""
    # Unique to the job, the same for all its restarts.
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    checkpoint = Path(tempfile.gettempdir()) / f"digits-{run_id}.pt"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--accuracy", type=float, default=0.95, help="fail below (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, default=checkpoint)
    parser.add_argument("--stuck-rank", type=int, default=1, help="-1: none (%(default)s)")
    parser.add_argument("--stuck-epoch", type=int, default=5, help="when (%(default)s)")
    return parser.parse_args()


def join(attempt: int) -> int:
    """Meet the other ranks; return the own rank."""
    # torch 2.13 keeps the addresses of an earlier attempt's ranks in the store, where a restarted
    # rank may find them before the new ones (pytorch #135712): a name space for each attempt.
    store, rank, world_size = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"attempt {attempt}", store)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    return rank


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Shuffle the digits, in the same way on every rank, and hold some of them out."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[HELD_OUT:], order[:HELD_OUT]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def get_stuck() -> None:
    """Wait for data from a peer that never sends any."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the checkpoint if there is one; return the epoch to train next."""
    if not path.exists():
        return 0
    checkpoint = torch.load(path, weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    epoch: int = checkpoint["epoch"]
    return epoch


def save(path: Path, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the checkpoint; whoever reads it sees the old one or the new one, never half of it."""
    unfinished = path.with_suffix(".tmp")
    state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def evaluate(model: nn.Module, digits: TensorDataset) -> float:
    """Return the share of ``digits`` that the network recognises."""
    images, labels = digits.tensors
    with torch.no_grad():
        guesses: Tensor = model(images).argmax(dim=1)
    return (guesses == labels).float().mean().item()


def leave(status: int) -> NoReturn:
    """End the process, without the clean-up of the interpreter."""
    # Threads of gloo outlive a group that DistributedDataParallel used, and abort the process when
    # they drop a tensor while the interpreter shuts down (torch 2.13, pytorch #190489).
    sys.stdout.flush()
    os._exit(status)


def say(text: str) -> None:
    """Print on rank 0."""
    if dist.get_rank() == 0:
        print(text, flush=True)


if __name__ == "__main__":
    main()
