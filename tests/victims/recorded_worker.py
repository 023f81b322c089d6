"""A worker of torch with a Flight Recorder; the argument says how it comes to have a server.

Says its pid once its main thread holds the GIL for ever, or ends.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import socket
import sys
import threading

import timers


def collective() -> None:
    torch = importlib.import_module("torch")
    dist = importlib.import_module("torch.distributed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    dist.all_reduce(torch.zeros(3))


def say_and_hold_the_gil() -> None:
    library = ctypes.PyDLL(None)
    message = f"ready\n{os.getpid()}\n".encode()
    library.write(1, message, len(message))
    library.sleep(1000)


def main() -> None:
    order = sys.argv[1]
    if order == "configure_first":
        timers.configure_from_env()
    importlib.import_module("torch.distributed")
    if order != "configure_first":
        timers.configure_from_env()
    if order.startswith("forked") and (child := os.fork()):
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if order.startswith("forked"):
        ctypes.CDLL(None).prctl(1, 9)
        timers.configure_from_env()
    collective()
    if order.endswith("ends"):
        print("ready", flush=True)
        return
    assert threading.current_thread() is threading.main_thread()
    say_and_hold_the_gil()


if __name__ == "__main__":
    main()
