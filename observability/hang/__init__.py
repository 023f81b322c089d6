"""Who waits for whom, when a run hangs.

``types``      what a report says, as plain data
``report``     from the workers' samples to a report: :func:`~observability.hang.report.analyse`
``_case``      the workers sorted by their state, and what every rule needs
``_verdict``   the rules that decide who holds up the others
``_tree``      all stacks merged into one
``text``       the report for people: a sentence, a screen
``json``       a worker's sample to and from the fields of an event
``roll_call``  at the first expiry, sample every worker and report before anybody is killed
"""
