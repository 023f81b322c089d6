"""Ask a service for its ``/timers``."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from observability.http.address import Address
from observability.untrusted import printable

_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 64 * 1024 * 1024


class ServiceError(Exception):
    """No answer that could be used; the message says from where and why."""


def service_url(text: str) -> str:
    """Make the base URL of a service from a URL or ``HOST:PORT``.

    :raises ValueError: it is neither.
    """
    if "://" not in text:
        return f"http://{Address.parse(text)}"
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r}: must be HOST:PORT or a URL of http or https")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def fetch(url: str, limit: int, *, token: str | None, ca_file: str | None) -> dict[str, Any]:
    """The answer of ``/timers``.

    :param url: of :func:`service_url`.
    :param limit: how many timers, at most.
    :param token: the service's secret, if it has one.
    :param ca_file: PEM file with the authority that signed the service's certificate, when it is
        none of the system's.
    :raises ServiceError: the service cannot be reached, refuses, or answers something else.
    """
    request = urllib.request.Request(f"{url}/timers?limit={limit}")  # noqa: S310  # service_url() checked the scheme
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_file))
        ]
        if Address(urllib.parse.urlsplit(url).hostname or "", 0).is_loopback:
            # A proxy would look for the service on its own machine.
            handlers.append(urllib.request.ProxyHandler({}))
        opener = urllib.request.build_opener(*handlers)
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
            answer = json.loads(response.read(_MAX_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(200).decode("utf-8", "replace").strip().partition("\n")[0]
        reason = printable(f"{error.code} {error.reason}: {body}")
        raise ServiceError(f"{url}: {reason}") from None
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        reason = printable(str(getattr(error, "reason", error)))
        raise ServiceError(f"{url}: {reason}") from None
    if not isinstance(answer, dict) or "timers" not in answer:
        raise ServiceError(f"{url}: answers, but is no timer service")
    return answer
