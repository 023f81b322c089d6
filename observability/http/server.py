"""An HTTP server on a thread of its own, which no client can use against the reaps.

Decision: uvicorn with starlette. Both are small, pure Python, released often, by one team, and
used by so many that they will be kept for years; uvicorn brings TLS and one asyncio thread, where
an idle client costs a socket and not a thread. Of the others, waitress has no TLS, a slow client
of cheroot holds one of its few threads, and aiohttp brings seven more compiled packages.

Decision: uvicorn's protocol, with an accept loop of our own. The number of descriptors that
clients can hold is bounded (the watchdog needs some for its workers), during TLS handshakes, too;
so is the time until a request is complete and until its answer is read; and uvicorn's own loop
wakes up ten times a second, where this one sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from timers.linux.descriptors import is_reserved

from .address import Address

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["HttpServer", "tls_context"]

MAX_CONNECTIONS = 64
"""Beyond it the connection that has been idle longest is closed in favour of the new one."""
FEW_CONNECTIONS = 8
"""Likewise, when this process has nearly no descriptors left."""
MAX_HEADER_BYTES = 16 * 1024
STALL_SECONDS = 20.0
"""How long a connection may go without completing a request, or without reading the answer."""
KEEP_ALIVE_SECONDS = 75
"""Longer than Prometheus' usual scrape interval, so that its connection can stay."""
HANDSHAKE_SECONDS = 10.0
BACKLOG = 128
STOP_SECONDS = 1.0
_PAUSE_SECONDS = 0.5

_logger = logging.getLogger(__name__)


class HttpServer:
    """Listens from the moment it is made; answers from :meth:`start`.

    :param address: where to listen; port 0 takes a free one.
    :param tls: for HTTPS; see :func:`tls_context`.
    :raises OSError: the address is taken, not of this machine, or not permitted.
    """

    def __init__(self, address: Address, *, tls: ssl.SSLContext | None = None) -> None:
        family, _, _, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )[0]
        self._socket = socket.create_server(target[:2], family=family, backlog=BACKLOG)
        self._socket.setblocking(False)
        self._tls = tls
        self.address = Address(address.host, self._socket.getsockname()[1])
        self.url = f"{'http' if tls is None else 'https'}://{self.address}"
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._stopped = False

    def start(self, app: ASGIApp) -> None:
        """Answer requests from now on, with ``app``."""
        # Its messages are about clients: malformed requests and the like are their affair.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
        config.load()
        self._thread = threading.Thread(
            target=self._run, args=(config,), name="timers-http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; answers under way are finished, within about a second. Idempotent."""
        with self._lock:
            self._stopped = True
            if self._loop is not None and self._ended is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                    self._loop.call_soon_threadsafe(self._ended.set)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(STOP_SECONDS + 2.0)
        self._socket.close()

    def _run(self, config: uvicorn.Config) -> None:
        try:
            asyncio.run(self._serve(config))
        except Exception:  # the timers matter more than their metrics
            _logger.exception("the HTTP server at %s ended; the timers go on", self.address)

    async def _serve(self, config: uvicorn.Config) -> None:
        with self._lock:
            self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
            if self._stopped:
                return
        state = ServerState()
        accepting = asyncio.create_task(self._accept(config, state))
        await self._ended.wait()
        accepting.cancel()
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=STOP_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # for what abort() leaves to the loop

    async def _accept(self, config: uvicorn.Config, state: ServerState) -> None:
        loop = asyncio.get_running_loop()
        handshakes: dict[asyncio.Task[Any], socket.socket] = {}
        while True:
            try:
                client, _ = await loop.sock_accept(self._socket)
            except OSError:
                # No descriptors (EMFILE), or the client has left: accept(2) says to try again.
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            with contextlib.suppress(OSError):  # the client has left
                # asyncio knows it for TCP only by a number that accept(2) does not give. Without
                # this the end of an answer waits 40 ms for the client to acknowledge its start.
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if len(handshakes) >= MAX_CONNECTIONS:
                next(iter(handshakes)).cancel()
            task = loop.create_task(
                loop.connect_accepted_socket(
                    lambda: _Connection(config, state, {}),
                    client,
                    ssl=self._tls,
                    ssl_handshake_timeout=None if self._tls is None else HANDSHAKE_SECONDS,
                )
            )
            handshakes[task] = client
            task.add_done_callback(lambda task: _connected(task, handshakes.pop(task)))
            await asyncio.sleep(0)  # accepting does not wait while clients queue up


def _connected(task: asyncio.Task[Any], client: socket.socket) -> None:
    # Without TLS, or with one that we do not know: that is the client's problem.
    if task.cancelled() or task.exception() is not None:
        client.close()


def tls_context(certificate: str, key: str | None = None) -> ssl.SSLContext:
    """Make what :class:`HttpServer` needs for HTTPS (TLS 1.2 or later).

    :param certificate: PEM file with the certificate chain.
    :param key: PEM file with its private key; not needed when it is in ``certificate``.
    :raises OSError: a file cannot be read; ``ssl.SSLError``, which is one, when they are no
        certificate and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # An encrypted key would be asked for at the terminal, which is the command's.
    context.load_cert_chain(certificate, key, password="")
    return context


class _Connection(H11Protocol):
    """One client's connection, with bounds."""

    _watching: asyncio.TimerHandle | None = None
    _idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrowed by uvicorn, too
        super().connection_made(transport)
        self._expect_request()
        last = is_reserved(transport.get_extra_info("socket").fileno())
        if len(self.connections) > (FEW_CONNECTIONS if last else MAX_CONNECTIONS):
            others = [each for each in self.connections if isinstance(each, _Connection)]
            min(others, key=_Connection._worth).drop()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watching is not None:
            self._watching.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        # Of a request whose body turns out to be none. uvicorn takes it that nothing has been
        # answered so far, and lets an answer that is under way follow.
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        self._expect_request()
        super().on_response_complete()

    def drop(self) -> None:
        self.connections.discard(self)
        self.transport.abort()

    def _worth(self) -> tuple[bool, float]:
        return self._is_answering(), self._idle_since

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_request(self) -> None:
        self._idle_since = self.loop.time()
        self._check_later()

    def _check_later(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._watching = self.loop.call_later(STALL_SECONDS, self._check)

    def _check(self) -> None:
        if self._is_answering():
            stalled = self.flow.write_paused
        else:
            # Between two requests uvicorn's own timer runs; any byte of the next one ends it.
            stalled = (
                self.timeout_keep_alive_task is None or self.transport.get_write_buffer_size() > 0
            )
        if stalled:
            self.drop()
        else:
            self._check_later()
