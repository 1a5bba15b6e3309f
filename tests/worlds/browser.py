"""A real browser, headless: Debian's Chromium, driven by Playwright. It reaches files and loopback only."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips the test, with what to install, where there is none."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=found, args=_ARGUMENTS) as browser:
        yield browser
