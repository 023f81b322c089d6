"""Remake the README's pictures from a real run: ``python -m tests.pictures``, takes minutes.

Real services with real workers, scraped by a real Prometheus; the dashboard is drawn by Grafana's
own panels and the live page by the service itself, both in Chromium.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

# ruff: noqa: E402  # what follows is found through the line above
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By

from support.monitoring import grafana, scenario, servers
from support.monitoring.tools import require
from support.service import running
from support.waiting import eventually

PICTURES = HERE.parent / ".github" / "pictures"
FLEET = HERE.parent / "dashboards" / "timers-fleet.json"
RULES = HERE.parent / "dashboards" / "timers-recording.yml"
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
        options = webdriver.ChromeOptions()
        options.binary_location = require("chromium", "chromium")
        for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,900"):
            options.add_argument(argument)
        driver = Driver(require("chromedriver", "chromium-driver"))
        chrome = webdriver.Chrome(options=options, service=driver)
        ended.callback(chrome.quit)
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
    """Take both pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="job-") as directory:
        page(PICTURES / "page.png", Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        dashboard(PICTURES / "dashboard.png", Path(directory))
    print(f"pictures are in {PICTURES.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
