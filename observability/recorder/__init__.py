"""PyTorch's Flight Recorder: which collective operations a rank has enqueued and completed.

``types``     what one rank's recorder says, as plain data
``read``      a dump of it, as JSON or as a pickle, to that data
``_pickles``  pickles of plain data without running anything they name
``ask``       ask all ranks of this host at once: over their worker servers, through NCCL's pipes
``json``      the data to and from the fields of an event
"""
