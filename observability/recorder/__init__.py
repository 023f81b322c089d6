"""PyTorch's Flight Recorder: which collective operations a rank has enqueued and completed.

The map::

    types.py       what one rank's recorder says, as plain data
    ask.py         ask all ranks of this host at once: worker servers, NCCL's pipes
    json.py        the data to and from the fields of an event
    _read.py       a dump, as JSON or as a pickle, to that data
    _pickles.py    pickles of plain data, without running anything they name
"""
