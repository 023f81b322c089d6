"""Who waits for whom, when a run hangs.

``types``        what a report says, as plain data
``report``       from the workers' samples to a report: :func:`~observability.hang.report.analyse`
``graph``        the wait-for graph: edges with their evidence, where chains end, circles
``collectives``  what the Flight Recorders of all ranks say together, as edges of the graph
``_verdict``     the verdict, by the surest evidence there is
``_stacks``      the rules by which stacks speak for or against a worker
``_case``        the workers sorted by their state, and what every rule needs
``_tree``        all stacks merged into one
``text``         the report for people: a sentence, a screen
``json``         a worker's sample to and from the fields of an event
``sampling``     sample all workers of this host within one bound
``explain``      what any processes do, and who holds them up: the entry for others
``roll_call``    at the first expiry, sample every worker and report before anybody is killed
"""
