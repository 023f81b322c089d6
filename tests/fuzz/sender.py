"""``python sender.py PATH``: a worker that sends packets as it is told on its standard input.

Each order is one byte, four bytes of length (big-endian), and so many bytes. Each is answered by
one byte on standard output.
"""

from __future__ import annotations

import array
import os
import socket
import sys

SEND = b"s"
SEND_WITH_DESCRIPTORS = b"f"
RECONNECT = b"c"
DONE = b"."
FAILED = b"!"


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(path)
    return connection


def main(path: str) -> None:
    """Obey until there is nothing more to read."""
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    connection = _connect(path)
    null = os.open("/dev/null", os.O_RDONLY)
    descriptors = array.array("i", [null, null, null])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors.tobytes())]
    while order := orders.read(1):
        data = orders.read(int.from_bytes(orders.read(4), "big"))
        answer = DONE
        try:
            if order == RECONNECT:
                connection.close()
                connection = _connect(path)
            elif order == SEND_WITH_DESCRIPTORS:
                connection.sendmsg([data], rights)
            else:
                connection.send(data)
        except OSError:
            answer = FAILED
        answers.write(answer)
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
