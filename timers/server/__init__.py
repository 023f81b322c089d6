"""The watchdog: takes requests, keeps deadlines, reaps stuck workers.

==================  =====================================================================
server              what our own servers share: the public face of a watchdog
watchdog            the loop: sleep, read, expire, hand over to the reaps
workers             who the workers are, who may ever be signalled, and when they exit
reaper              how a stuck worker is ended: policy, signals, confirmation
process_tree        what a worker has started, ended with it
statistics          every count, and everything that counts
event_queue         hand events to what may block, raise or never return
logging_observer    events through the standard logging
torch_callback      events through torch's ``log_event``
request_events      events and counts of requests that say no more than torch's
file_requests       what the servers of the pipe and the socket share
_intake             requests as they come in, checked and turned into timers
_table              which timers run, and which is due next
_state              what all of these share: lock, clock, timers, counts, observer
_reaping            one thread for each reap: explain, kill, confirm, report back
==================  =====================================================================
"""
