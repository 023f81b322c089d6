"""The open files and the peers of a real process."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from observability.fields import stack_fields
from observability.sampling.process_facts import add_open_files
from timers.stacks.take import StackDump

if TYPE_CHECKING:
    from pathlib import Path

WAITING = """
import socket, sys
file = open(sys.argv[1])
peer = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
print("ready", flush=True)
peer.recv(1)
"""


def test_file_and_peer_are_told(tmp_path: Path) -> None:
    path = tmp_path / "shard-17"
    path.write_text("data")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-c", WAITING, str(path), str(port)], stdout=subprocess.PIPE
        )
        try:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            dump = add_open_files(StackDump(pid=process.pid, method="proc"))
        finally:
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]  # asserted above
    assert str(path) in dump.facts.open_paths
    assert f"127.0.0.1:{port} ESTABLISHED" in dump.facts.connections
    fields = stack_fields(dump, None)
    assert str(path) in fields["process_open_paths"]
    assert f"127.0.0.1:{port} ESTABLISHED" in fields["process_connections"]
    gone = add_open_files(StackDump(pid=process.pid, method="proc"))
    assert gone == StackDump(pid=process.pid, method="proc")
