"""Who holds up the others, decided by the surest evidence there is.

The map::

    decide.py         the verdict: where the chains of waits end, and by which evidence
    case.py           the workers sorted by their state, and what every rule needs
    collectives.py    what the flight recorders of all ranks say together, as edges
    links.py          what the kernel knows of locks, pipes and sockets, as edges
    _stacks.py        the rules by which stacks speak for or against a worker
"""
