"""A real browser without a screen, which opens the pages of a server and tells what they show."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1500,1300")
PAGE_SECONDS = 90.0

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="NO BROWSER: chromium and chromedriver are not installed"
)


class Browser:
    """Chromium, as long as the block."""

    def __enter__(self) -> Browser:
        options = webdriver.ChromeOptions()
        for argument in ARGUMENTS:
            options.add_argument(argument)
        assert CHROMIUM
        options.binary_location = CHROMIUM
        self._driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.quit()

    @property
    def source(self) -> str:
        """The page as it stands, values of form fields included."""
        fields = self._driver.find_elements(By.CSS_SELECTOR, "input, textarea")
        return " ".join([self._driver.page_source, *(field.get_attribute("value") or "" for field in fields)])

    def open(self, url: str, expected: str) -> str:
        """Open a page, wait until it shows the expected words and has settled, and return all it shows."""
        self._driver.get(url)
        return self._settled(expected)

    def tab(self, name: str, expected: str) -> str:
        """Go to a tab of the page that is open, and wait as for a page."""
        self._driver.execute_script(
            "[...document.querySelectorAll('*')].filter(e => (e.innerText || '').trim() === arguments[0])"
            ".pop().click()",
            name,
        )
        return self._settled(expected)

    def _settled(self, expected: str) -> str:
        deadline, before = time.monotonic() + PAGE_SECONDS, ""
        while True:
            text = self._driver.find_element(By.TAG_NAME, "body").text
            if expected in text and text == before:
                return text
            assert time.monotonic() < deadline, text
            before = text
            time.sleep(1.0)

    def save(self, path: Path) -> None:
        """Write a picture of the page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        assert self._driver.save_screenshot(str(path))
