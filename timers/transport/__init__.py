"""How requests travel: the wire, and for each way both of its ends.

==============  ==========================================================================
wire            one request as a line of JSON, written and read
source          what every server's end has in common
fifo_reader     the named pipe: the server's end
fifo_writer     the named pipe: the worker's end
socket_path     the path of a Unix socket: who may create it, and who is behind it
seqpacket       the Unix socket: the server's end (the worker's is in timers.worker)
mp_queue        a multiprocessing queue: the server's end
_packets        many packets with one system call, with the pid of each one's sender
==============  ==========================================================================
"""
