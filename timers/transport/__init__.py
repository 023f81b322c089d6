"""How requests travel: the wire, and for each way both of its ends.

The map::

    wire.py           one request as a line of JSON, written and read
    board.py          where everything lies on a worker's board, and why that is safe
    receipt.py        where it is noted that a message was sent
    source.py         what every server's end has in common
    fifo_reader.py    the named pipe: the server's end
    fifo_writer.py    the named pipe: the worker's end
    socket_path.py    the path of a Unix socket: who may create it, and who is behind it
    seqpacket.py      the Unix socket: the server's end (the worker's is in timers.worker)
    mp_queue.py       a multiprocessing queue: the server's end
    _peek.py          what lies in a pipe, without taking it from there
    _elsewhere.py     what may never answer, asked by a thread of its own
    _packets.py       many packets with one system call, with the pid of each one's sender
"""
