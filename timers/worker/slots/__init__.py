"""Which blocks of a worker are open, and how its server comes to know.

The map::

    to_its_ends.py       an ``except`` that also is for a function's first and last instruction
    slot.py              one scope in one thread: its blocks, decided by one word
    request.py           what is said of one block, whatever it travels over
    messages.py          slots that send messages, and the channel that these travel over
    board.py             the worker's side of the board, which gives out its slots
    board_slot.py        slots on the board: nothing is sent, the server reads them
    _trace_context.py    the OpenTelemetry span that a block reserves
    tasks.py             where asyncio tasks that are in a block are suspended, for whoever asks
"""
