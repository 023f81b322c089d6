"""What a worker loads: blocks with a deadline, and the clients that announce them.

The map::

    scopes.py            expires(), the block itself, and configure()
    beat.py              beat(), a heartbeat without a block
    environment.py       configure a worker from the variables of its launcher
    client.py            the base of every client, for those of one's own too
    pipe_client.py       the client of the named pipe
    socket_client.py     the client of the Unix socket
    queue_client.py      the client of a multiprocessing queue
    slots/               which blocks are open, and how the server comes to know
    _client_slots.py     the base of our own clients: a slot for each scope and thread
    _foreign.py          slots for clients of somebody's own
    _decorator.py        expires() on functions, coroutines and generators
    _socket_channel.py   the connection, the board, and the thread that reconnects
    _lines.py            requests as text of the wire
    _on_error.py         what a client does when a request cannot be delivered
"""
