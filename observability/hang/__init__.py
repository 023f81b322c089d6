"""Who holds up the others in a run that hangs: samples in, report out.

The map::

    roll_call.py    at the first expiry, sample every worker of the run
    input.py        what a report is made from: each worker, and its samples
    json.py         the same to and from the fields of "stack dumped"
    report.py       make a report of what was sampled
    types.py        the report as plain data: verdict, suspects, groups
    text.py         the report for people: a sentence, and a text that fits on a screen
    _case.py        the workers, sorted for comparison
    _tree.py        stacks of many workers merged into one tree
    _verdict.py     the rules that decide who holds up the others
"""
