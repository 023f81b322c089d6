"""A TCPStore as torchrun serves it; says its port."""

from __future__ import annotations

import importlib
import signal
from typing import Any

distributed: Any = importlib.import_module("torch.distributed")

store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print("ready", flush=True)
print(store.port, flush=True)
signal.pause()
