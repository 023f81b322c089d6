"""``timers report``: what the event files of one or many hosts say together.

The map::

    command.py       the command: its options, what it prints and its exit status
    _files.py        read event files
    incidents.py     from the events of a run to its hangs
    _ending.py       how a run ended in which no timer expired
    _deadlines.py    deadlines suggested from the durations that a run has seen
    html.py          a hang as one HTML page
"""
