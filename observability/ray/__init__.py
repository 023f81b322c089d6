"""A watchdog on each node of a Ray cluster, started by one call on the driver.

Usage, in place of ``ray.init``::

    import observability.ray

    watch = observability.ray.start(address="auto", after={"Trainer.step": 300})

The map::

    _start.py       on the driver: the runtime environment of the job, the actors, nodes that come
    _meeting.py     the actor at which the watchdogs meet: roll calls, and what was reaped
    _watchdog.py    the actor that watches the workers of its node
    _records.py     a sink that has the meeting know what is reaped
"""

from ._start import Watch, start

__all__ = ["Watch", "start"]
