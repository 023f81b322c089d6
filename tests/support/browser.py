"""A Chromium without a screen and without a network of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver

from support.monitoring.tools import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["chromium"]

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


@contextlib.contextmanager
def chromium(place: Path, *arguments: str) -> Iterator[webdriver.Chrome]:
    """Start it, with its profile in ``place``; what pages log can be read from it."""
    options = webdriver.ChromeOptions()
    options.binary_location = require("chromium", "chromium")
    for argument in (*_ARGUMENTS, f"--user-data-dir={place / 'profile'}", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Driver(require("chromedriver", "chromium-driver"))
    chrome = webdriver.Chrome(options=options, service=driver)
    try:
        yield chrome
    finally:
        chrome.quit()
