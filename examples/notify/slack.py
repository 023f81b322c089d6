"""Post a hang report to a chat: ``timers run --on-hang 'python slack.py'``.

SLACK_WEBHOOK_URL is the address of an incoming webhook (Slack, Mattermost, Rocket.Chat).
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

SECONDS = 5


def main() -> None:
    """Read the report and post it; a failure ends with a traceback and is counted."""
    report = json.load(sys.stdin)
    text = f":hourglass: *{report['run_id']}*: {report['message']}\n{report['report']}"
    request = urllib.request.Request(  # noqa: S310  # an address of the user's own
        os.environ["SLACK_WEBHOOK_URL"],
        json.dumps({"text": text}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=SECONDS):  # noqa: S310  # the user's address
        pass


if __name__ == "__main__":
    main()
