"""Where the events of a server go.

The map::

    event_queue.py         hand events to what may block, raise or never return
    logging_observer.py    events through the standard logging
    request_events.py      events and counts of requests that say no more than torch's
"""
