"""Who waits for whom, when a run hangs: samples in, report out.

The map::

    explain.py        what any processes of this host do, and who holds them up: for other callers
    roll_call.py      at the first expiry, sample every worker, report before anybody is killed
    report.py         from the samples of all workers to a report
    graph.py          the wait-for graph: edges with their evidence, where chains end, circles
    types.py          the report as plain data: verdict, suspects, groups
    text.py           the report for people: a sentence, and a text that fits on a screen
    json.py           a worker's samples to and from the fields of "stack dumped"
    _sampling.py      sample all workers of this host within one bound
    _collectives.py   what the flight recorders of all ranks say together, as edges
    _verdict.py       the verdict, by the surest evidence there is
    _stacks.py        the rules by which stacks speak for or against a worker
    _case.py          the workers sorted by their state, and what every rule needs
    _tree.py          stacks of many workers merged into one tree
"""
