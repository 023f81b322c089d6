"""One job on many hosts: one name, one roll call, one report.

A timer that expires on one host calls the roll on all of them. Each samples its own workers and
hands a summary over; the host that called puts them together and hands out the report, which all of
them log before any of them kills. What travels goes through a store that the job has anyway; every
step has a bound, after which a host goes on with what it knows.

The map::

    fleet.py          this host's part: finds the job, joins, calls, answers
    exchange.py       the protocol: announce a roll call, hand over, collect, agree on the report
    _messages.py      what travels: versions, bounds, and what is refused
    _summary.py       the samples of a host, equal stacks and recorders grouped, to and from JSON
    _store.py         what an engine has to offer
    ray.py            the engine for a job of Ray, by an actor
    _c10d.py          the engine for torchrun's store, by a helper process
    run_id.py         what a job is called, the same on all of its hosts
    _find.py          which store the workers of this host use
    _reports.py       a hang report to and from JSON
    _c10d_helper.py   the helper: a program for the workers' own interpreter
"""
