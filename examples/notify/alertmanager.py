"""Send a hang report to Alertmanager: ``timers run --on-hang 'python alertmanager.py'``.

ALERTMANAGER_URL is its address, such as http://alertmanager:9093. The alert ends by itself, after
what Alertmanager is configured to wait for (resolve_timeout).
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

SECONDS = 5


def main() -> None:
    """Read the report and send it; a failure ends with a traceback and is counted."""
    report = json.load(sys.stdin)
    alert = {
        "labels": {
            "alertname": "TimersHang",
            "severity": "critical",
            "run_id": report["run_id"],
            "host": report["host"],
            "verdict": report["verdict"],
        },
        "annotations": {"summary": report["message"], "report": report["report"]},
        "startsAt": report["timestamp"],
    }
    request = urllib.request.Request(  # noqa: S310  # an address of the user's own
        f"{os.environ['ALERTMANAGER_URL'].rstrip('/')}/api/v2/alerts",
        json.dumps([alert]).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=SECONDS):  # noqa: S310  # the user's address
        pass


if __name__ == "__main__":
    main()
