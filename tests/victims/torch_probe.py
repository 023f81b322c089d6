"""Print, as JSON, what PyTorch's compiler, ``pickle`` and ``inspect`` make of what hooks touch.

Run with and without automatic timers, it has to print the same. The first line says whether there
are any.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# By name, so that a type checker needs neither PyTorch nor the minutes it takes to read it.
torch: Any = importlib.import_module("torch")
dist: Any = importlib.import_module("torch.distributed")
data: Any = importlib.import_module("torch.utils.data")
loader: Any = importlib.import_module("torch.utils.data.dataloader")
c10d: Any = importlib.import_module("torch.distributed.distributed_c10d")
functional: Any = importlib.import_module("torch.distributed._functional_collectives")
dynamo: Any = importlib.import_module("torch._dynamo")

FUNCTIONS = [torch.save, torch.load, c10d.init_process_group, c10d.new_group]
FUNCTIONS += [c10d.destroy_process_group, dist.all_reduce, dist.barrier]


def reduce(x: Any) -> Any:
    dist.all_reduce(x)
    return x + 1


def gather(x: Any) -> Any:
    out = torch.empty(2, 2)
    dist.all_gather_into_tensor(out, x)
    return out.sum() + functional.all_reduce(x, "sum", [0])


def wait(x: Any) -> Any:
    dist.all_reduce(x, async_op=True).wait()
    return x + 1


def save(x: Any) -> Any:
    torch.save(x, "/dev/null")
    return x + 1


def iterate(x: Any) -> Any:
    for (batch,) in data.DataLoader(data.TensorDataset(torch.ones(2, 2))):
        x = x + batch
    return x


def step(optimizer: Any) -> Callable[[Any], None]:
    def apply(_: Any) -> None:
        optimizer.step()

    return apply


def compiled(function: Callable[[Any], Any], *, fullgraph: bool) -> list[str]:
    """The graphs that a function is compiled to, or why it is not."""
    graphs: list[str] = []

    def keep(module: Any, _inputs: object) -> Any:
        graphs.append(module.graph.python_code("self").src)
        return module.forward

    dynamo.reset()
    try:
        torch.compile(function, backend=keep, fullgraph=fullgraph)(torch.ones(2, 2))
    except Exception as error:  # noqa: BLE001  # whichever it is, is the point
        graphs.append(type(error).__name__)
    return graphs


def optimizer() -> Any:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    return torch.optim.SGD([parameter], lr=0.1)


def shown(function: Any) -> list[object]:
    try:
        signature = str(inspect.signature(function))
    except ValueError as error:
        signature = type(error).__name__
    file = inspect.getsourcefile(inspect.unwrap(function))
    source, documentation = inspect.getsource(function), inspect.getdoc(function)
    return [signature, file, source, documentation, repr(type(function))]


def pickled(thing: Any) -> list[object]:
    text = pickle.dumps(thing)
    return [text.hex(), pickle.loads(text) is thing]


def main() -> None:
    warnings.simplefilter("ignore")
    print("timers.auto.hooks" in sys.modules)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    found: dict[str, object] = {}
    for function in (reduce, gather, wait, save, iterate):
        for fullgraph in (True, False):
            found[f"{function.__name__} {fullgraph}"] = compiled(function, fullgraph=fullgraph)
    for fullgraph in (True, False):
        found[f"step {fullgraph}"] = compiled(step(optimizer()), fullgraph=fullgraph)
    for function in (*FUNCTIONS, loader._BaseDataLoaderIter.__next__):
        found[f"shown {function.__qualname__}"] = shown(function)
    for function in FUNCTIONS:
        found[f"pickled {function.__qualname__}"] = pickled(function)
    found["signature of wait"] = [
        repr(inspect.isroutine(dist.Work.wait)),
        inspect.getdoc(dist.Work.wait),
    ]
    found["loader"] = len(pickle.dumps(data.DataLoader(data.TensorDataset(torch.ones(2)))))
    found["optimizer"] = len(pickle.dumps(optimizer()))
    dist.destroy_process_group()
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
