"""What the service answers over HTTP.

The map::

    server.py     an HTTP server on a thread of its own, with a bound on all a client can take
    app.py        the routes: metrics, health, running timers, last reaps, the page
    address.py    HOST:PORT, as people write it and as sockets want it
    health.py     whether the watchdog does its work
    _auth.py      who may ask
    _scrapes.py   who scrapes, and what each has seen
    _look.py      a look at all workers on request
    _page.py      the page at "/" and its security policy
    page.html     the page itself
"""
