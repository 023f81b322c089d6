"""Who waits for whom, when a run hangs: samples in, report out.

The map::

    roll_call.py      at the first expiry, sample every worker, report before anybody is killed
    report.py         from the samples of all workers to a report, with their stacks as one tree
    graph.py          the wait-for graph: edges with their evidence, where chains end, circles
    types.py          the report as plain data: verdict, suspects, groups
    text.py           the report for people: a sentence, and a text that fits on a screen
    json.py           a worker's samples to and from the fields of "stack dumped"
    verdict/          who holds up the others, by the surest evidence there is
    _words.py         what a worker does, in words
"""
