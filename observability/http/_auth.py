"""Who may ask: a stack shows source and arguments, so not everybody.

Decision: one secret, accepted as a bearer token and as the password of basic authentication (with
any user name): the first is what scrapers send, the second what browsers can ask for.
``/-/healthy`` and ``/-/ready`` need none: they say nothing but yes or no, and what asks for them
(an orchestrator) seldom can hold a secret.

Decision: without a secret, a request must name this machine in its ``Host`` header. Otherwise any
web page could read the stacks through the browser of somebody who works here, by letting its own
name resolve to 127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from .address import Address

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/-/healthy", "/-/ready"})


class Guard:
    """ASGI middleware that lets through who may ask.

    :param token: the secret; None lets everybody in who passes the check of the host.
    :param local_only: whether the ``Host`` header has to name this machine.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, local_only: bool) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._local_only = local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on or refuse it."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = None
        if self._token is not None:
            if not _has_token(headers.get("authorization", ""), self._token):
                refusal = PlainTextResponse(
                    "needs the token: as a bearer token, or as the password of any user\n",
                    401,
                    {"WWW-Authenticate": 'Basic realm="timers", charset="UTF-8"'},
                )
        elif self._local_only and not _is_local(headers.get("host", "")):
            refusal = PlainTextResponse("this server answers only to requests for localhost\n", 403)
        await (refusal or self._app)(scope, receive, send)


def _has_token(authorization: str, token: bytes) -> bool:
    scheme, _, credentials = authorization.strip().partition(" ")
    given = credentials.strip().encode("latin-1")  # as it came
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given, token)


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.removeprefix("[").removesuffix("]").rstrip(".").lower()
    return name.endswith(".localhost") or Address(name, 0).is_loopback
