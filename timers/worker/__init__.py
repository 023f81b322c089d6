"""What a worker loads: blocks with a deadline, and the clients that announce them.

The map::

    scopes.py            expires(), the block itself, and configure()
    environment.py       configure a worker from the variables of its launcher
    client.py            the base of every client, for those of one's own too
    pipe_client.py       the client of the named pipe
    socket_client.py     the client of the Unix socket
    queue_client.py      the client of a multiprocessing queue
    on_error.py          what a client does when a request cannot be delivered
    _request_lines.py    one acquire or release as text of the wire
    _socket_link.py      the worker's end of the Unix socket
    _open_timers.py      which timers are open, for the next server: pure state
    _trace_context.py    the OpenTelemetry span that a block reserves
"""
