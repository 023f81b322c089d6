"""Stacks of another process, taken from outside.

The map::

    take.py        take the stacks of one process, bounded in time
    dump.py        what comes of it: frames, threads, facts, and their text
    tools.py       find and run a program under tight bounds
    _ladder.py     by which tool a stack is taken, and what is tried next
    _parsing.py    what the tools print, read into plain data
"""
