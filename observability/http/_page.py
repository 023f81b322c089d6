"""The page at ``/``: what runs now, what was reaped and where it was stuck, for people.

One file with everything in it, so that it works where there is no internet. It holds no data: it
asks ``/timers`` and ``/-/healthy`` of the same service, behind the same authentication. Its policy
lets it load and run nothing else, whatever a scope is called.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from importlib import resources

from starlette.responses import Response


@functools.cache
def _content() -> tuple[bytes, str]:
    text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    style, script = (_hash(text, tag) for tag in ("style", "script"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def _hash(text: str, tag: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    inner = found[1] if found else ""
    return f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"


def page() -> Response:
    """Answer with the page."""
    body, policy = _content()
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    return Response(body, media_type="text/html", headers=headers)
