"""The boards of workers, as the server reads them.

The map::

    registry.py    the boards of all workers: when each is looked at, what that finds
    _board.py      one worker's board: whose block is due
    _counts.py     what a worker counted on its board, added to the server's counts
"""
