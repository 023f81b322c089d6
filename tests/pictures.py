"""Remake the README's pictures from a real run: ``python -m tests.pictures``, takes minutes.

Real services with real workers, scraped by a real Prometheus; the dashboard is drawn by Grafana's
own panels and the live page by the service itself, both in Chromium; the terminal shows what the
command wrote to one (pty(7)).
"""

from __future__ import annotations

import contextlib
import fcntl
import html
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

# ruff: noqa: E402  # what follows is found through the line above
from selenium.webdriver.common.by import By

from support.browser import chromium
from support.monitoring import grafana, scenario, servers
from support.service import running
from support.waiting import eventually

PICTURES = HERE.parent / ".github" / "pictures"
FLEET = HERE.parent / "dashboards" / "timers-fleet.json"
RULES = HERE.parent / "dashboards" / "timers-recording.yml"
QUICKSTART = "examples/quickstart/run.py"
COLUMNS = 100
WINDOW = "--window-size=1000,900"
RUNS_FOR_SECONDS = 150
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: timers
    static_configs:
{targets}"""


# A job of four ranks: one never gets its batch and is reaped, the others wait for it.
JOB = """
import socket, sys, threading
import timers

def read_batch(loader):
    return loader.recv(1)

def train(rank):
    if rank == 2:
        loader, _silent = socket.socketpair()
        with timers.expires(after=4, scope="read_batch"):
            print("ready", flush=True)
            read_batch(loader)
    with timers.expires(after=60 + 5 * rank, scope="all_reduce"):
        print("ready", flush=True)
        threading.Event().wait()

timers.configure(timers.FileTimerClient(sys.argv[1]))
train(int(sys.argv[2]))
"""


def terminal(picture: Path, place: Path) -> None:
    """Take a terminal in which the quickstart's stuck worker was reaped."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
    shutil.copytree(HERE.parent / Path(QUICKSTART).parent, place / Path(QUICKSTART).parent)
    command = ["timers", "run", "--events", "events.jsonl", "--", "python", QUICKSTART]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        command,
        env={**os.environ, "PATH": path, "TERM": "xterm-256color"},
        cwd=place,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ):
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as screen:
            while data := screen.read(65536):  # EIO once nobody has it open any more
                said += data
    shown = place / "terminal.html"
    shown.write_text(as_html(f"$ {' '.join(command)}\n{said.decode()}"))
    with chromium(place, WINDOW) as chrome:
        chrome.get(shown.as_uri())
        chrome.find_element(By.TAG_NAME, "pre").screenshot(str(picture))


def as_html(text: str) -> str:
    """Show what was written to a terminal, with its colours (ECMA-48, SGR)."""
    colours = {"31": "#ff6b6b", "32": "#69db7c", "33": "#ffd43b", "36": "#66d9e8"}
    parts, is_open = [], False
    for number, part in enumerate(re.split(r"\x1b\[([0-9;]*)m", text.replace("\r\n", "\n"))):
        if number % 2 == 0:
            parts.append(html.escape(part))
            continue
        parts.append("</span>" * is_open)
        codes = [code for code in part.split(";") if code not in ("", "0")]
        is_open = bool(codes)
        style = "".join(
            "font-weight:bold;" if code == "1" else f"color:{colours.get(code, '#adb5bd')};"
            for code in codes
        )
        parts.append(f'<span style="{style}">' * is_open)
    style = (
        "background:#1e1e2e;color:#e6e6e6;font:14px/1.35 monospace;padding:16px;margin:0;"
        "display:inline-block;white-space:pre"
    )
    return f'<meta charset="utf-8"><body style="margin:0"><pre style="{style}">{"".join(parts)}'


def page(picture: Path, place: Path) -> None:
    """Take the live page while a small job runs of which one rank was reaped."""
    script = place / "train.py"
    script.write_text(JOB)
    with running(place, run_id="llm-7") as service, contextlib.ExitStack() as ended:
        for rank in range(4):
            worker = subprocess.Popen(
                [sys.executable, str(script), service.server.address, str(rank)],
                stdout=subprocess.PIPE,
                env={**os.environ, "RANK": str(rank)},
            )
            ended.callback(worker.wait)
            ended.callback(worker.kill)
            assert worker.stdout
            ended.callback(worker.stdout.close)
            assert worker.stdout.readline() == b"ready\n"
        chrome = ended.enter_context(chromium(place, WINDOW))
        chrome.get(f"http://{service.address}/")
        reaped = (By.CSS_SELECTOR, "#reaps summary")
        eventually(lambda: chrome.find_elements(*reaped), "the reap on the page")
        chrome.find_element(*reaped).click()
        chrome.save_screenshot(str(picture))


def dashboard(picture: Path, place: Path) -> None:
    """Take the fleet's dashboard after some minutes of several runs."""
    with scenario.trouble(place) as seen:
        config = place / "prometheus.yml"
        config.write_text(CONFIG.format(targets=seen.scrape_config(), rules=RULES))
        with servers.prometheus(config, place / "data") as prometheus:
            print(f"running for {RUNS_FOR_SECONDS} s", flush=True)
            time.sleep(RUNS_FOR_SECONDS)
            grafana.draw(
                dashboard=str(FLEET),
                prometheus=prometheus.address,
                picture=str(picture),
                **{"from": "now-2m", "to": "now"},
                scrape=1,
                interval="5s",
                width=1400,
            )


def main() -> None:
    """Take all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        terminal(PICTURES / "terminal.png", Path(directory))
    with tempfile.TemporaryDirectory(prefix="job-") as directory:
        page(PICTURES / "page.png", Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        dashboard(PICTURES / "dashboard.png", Path(directory))
    print(f"pictures are in {PICTURES.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
