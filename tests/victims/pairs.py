"""Acquire and release COUNT pairs as fast as it goes: pairs.py PIPE COUNT [SCOPES]."""

from __future__ import annotations

import sys

import timers

path, count, scopes = sys.argv[1], int(sys.argv[2]), int((*sys.argv, "1")[3])
timers.configure(timers.FileTimerClient(path))
print("ready", flush=True)
for number in range(count):
    with timers.expires(after=3600, scope=f"scope {number % scopes}"):
        pass
print("done", flush=True)
