"""The live page in a real browser: countdowns run, reaps appear, names are only text."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By

from support.browser import chromium
from support.processes import VICTIMS
from support.service import running
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium import webdriver

    from observability.service import Service

STUCK = """
import sys, threading, timers

def stuck_here():
    threading.Event().wait()

timers.configure(timers.FileTimerClient(sys.argv[1]))
with timers.expires(after=float(sys.argv[2]), scope=sys.argv[3]):
    print("ready", flush=True)
    stuck_here()
"""
HOSTILE = "<script>document.title='hacked'</script><img src=x onerror=alert(1)>"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path) as chrome:
        yield chrome


@contextlib.contextmanager
def worker(service: Service, after: float, scope: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, service.server._file_path, str(after), scope],
        stdout=subprocess.PIPE,
        env={**os.environ, "RANK": "3"},
    )
    assert process.stdout
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def text(browser: webdriver.Chrome, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def shows(browser: webdriver.Chrome, selector: str, wanted: str) -> bool:
    return wanted in text(browser, selector)


def test_countdown_runs_and_the_reap_appears(tmp_path: Path, browser: webdriver.Chrome) -> None:
    with running(tmp_path) as service:
        browser.get(f"http://{service.address}/")
        eventually(lambda: shows(browser, "#health", "watching"), "the first answer")
        assert shows(browser, "#timers", "no timer is running")
        browser.execute_script("window.sameDocument = true")
        with worker(service, 600, "checkpoint"), worker(service, 6, HOSTILE) as stuck:
            eventually(lambda: shows(browser, "#timers", "checkpoint"), "the running timer")
            eventually(lambda: shows(browser, "#timers", HOSTILE), "its name as it is")
            first = text(browser, "#timers li:first-child .left")
            eventually(lambda: text(browser, "#timers li:first-child .left") != first)
            assert stuck.wait(timeout=60) == -9
            eventually(lambda: shows(browser, "#reaps", "killed"), "the reap")
            browser.find_element(By.CSS_SELECTOR, "#reaps summary").click()
            eventually(lambda: shows(browser, "#reaps pre", "stuck_here"), "its stack")
            assert shows(browser, "#reaps", "rank 3")
            assert shows(browser, "#reaps .scope", HOSTILE)
            assert shows(browser, "#timers", "checkpoint")
        assert browser.execute_script("return window.sameDocument") is True  # never reloaded
        assert "hacked" not in browser.title
        assert browser.find_elements(By.CSS_SELECTOR, "main img, main script") == []
    eventually(lambda: shows(browser, "#trouble", "does not answer"), "the end of the service")


def test_the_hang_report_appears_with_its_suspect_marked(
    tmp_path: Path, browser: webdriver.Chrome
) -> None:
    with running(tmp_path) as service:
        browser.get(f"http://{service.address}/")
        eventually(lambda: shows(browser, "#health", "watching"), "the first answer")
        assert text(browser, "#hang") == ""
        job = [sys.executable, str(VICTIMS / "meeting.py"), "3", "1", "silent", "3", "50"]
        process = subprocess.Popen(
            job,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TIMERS_FILE": service.server.address},
        )
        try:
            eventually(lambda: shows(browser, "#hang", "Rank 1 "), "the report", timeout=60)
            assert shows(browser, "#hang", "one suspect")
            browser.find_element(By.CSS_SELECTOR, "#hang summary").click()
            eventually(lambda: shows(browser, "#hang .tree .bad", "read_batch"), "the tree")
        finally:
            process.communicate()


def test_a_look_now_opens_the_page_with_the_sentence(
    tmp_path: Path, browser: webdriver.Chrome
) -> None:
    with running(tmp_path) as service, worker(service, 600, "train_step"):
        browser.get(f"http://{service.address}/")
        eventually(lambda: shows(browser, "#timers", "train_step"), "the timer")
        browser.find_element(By.ID, "look").click()
        eventually(lambda: shows(browser, "#hang", "stuck_here"), "the report")
        seen = text(browser, "body")
        assert seen.index("Who holds up the others") < seen.index("Running now")


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path, browser: webdriver.Chrome) -> None:
    with running(tmp_path) as service:
        browser.get(f"http://{service.address}/")
        eventually(lambda: shows(browser, "#health", "watching"), "the first answer")
        names = browser.execute_script(
            "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        )
        assert names
        assert all(name.startswith(f"http://{service.address}/") for name in names)
        complaints = [entry["message"] for entry in browser.get_log("browser")]  # type: ignore[no-untyped-call]  # selenium's
        assert [each for each in complaints if "favicon" not in each] == []


@pytest.mark.parametrize("width", [360, 1200])
def test_fits_the_screen(tmp_path: Path, browser: webdriver.Chrome, width: int) -> None:
    with running(tmp_path) as service, worker(service, 600, "a_rather_long_scope" * 8):
        browser.set_window_size(width, 800)
        browser.get(f"http://{service.address}/")
        eventually(lambda: shows(browser, "#timers", "a_rather_long_scope"), "the timer")
        overflow = "return document.documentElement.scrollWidth - window.innerWidth"
        assert browser.execute_script(overflow) <= 0


def test_dark_where_the_system_is_dark(tmp_path: Path, browser: webdriver.Chrome) -> None:
    colours = []
    with running(tmp_path) as service:
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            browser.get(f"http://{service.address}/")
            script = "return getComputedStyle(document.body).backgroundColor"
            colours.append(browser.execute_script(script))
    assert colours == ["rgb(246, 247, 249)", "rgb(18, 22, 28)"]


def test_authentication_refuses_the_page_and_its_data(
    tmp_path: Path, browser: webdriver.Chrome
) -> None:
    with running(tmp_path, token="secret") as service, worker(service, 600, "checkpoint"):
        browser.get(f"http://{service.address}/")
        assert "checkpoint" not in browser.page_source
        assert browser.find_elements(By.ID, "timers") == []
        browser.get(f"http://anybody:secret@{service.address}/")
        eventually(lambda: shows(browser, "#timers", "checkpoint"), "the timer")
