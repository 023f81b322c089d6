"""Where a process is stuck, taken from outside and without its help.

The map::

    take.py        take the stack of a process; what a stack is, as plain data
    tools.py       find and run another program under bounds of time and output
    _ladder.py     the ways to take a stack, from the best to the one that always works
    _parsing.py    read what the stack tools print: pure functions
    _text.py       a stack as text for people
"""
