"""One job on many hosts: one name, one roll call, one report.

The map::

    run_id.py         what a job is called, the same on all of its hosts
"""
