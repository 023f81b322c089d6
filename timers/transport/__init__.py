"""How requests travel from workers to a server.

The map::

    wire.py           one JSON object a line, torch's version 1 with optional extras
    fifo.py           both ends of the named pipe
    seqpacket.py      the server's end of the Unix socket
    socket_path.py    the path of a Unix socket: who may create it and be found behind it
    sources.py        several sources of requests as one
    _packets.py       many packets of a socket with one system call
"""
