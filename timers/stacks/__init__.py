"""Stacks of another process, taken from outside.

============  ==========================================================================
take          take the stacks of one process, bounded in time
dump          what comes of it: frames, threads, facts, and their text
tools         find and run a program under tight bounds
_ladder       by which tool a stack is taken, and what is tried next
_parsing      what the tools print, read into plain data
_attempt      what is known so far while a dump is being taken
============  ==========================================================================
"""
