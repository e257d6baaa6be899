"""Headless Chromium, which reads and clicks as a user does. Every wait has a limit. A timeout saves a screenshot."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

WAIT_SECONDS = 150
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1700",
)
Found = TypeVar("Found")


class Page:
    """One browser window on the interface at ``url``; screenshots go to ``folder``."""

    def __init__(self, driver: Chrome, url: str, folder: Path) -> None:
        self.driver, self.url, self.folder = driver, url, folder

    def open(self, path: str) -> None:
        self.driver.get(self.url + path)

    @property
    def text(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText"))

    def see(self, *texts: str, but_not: str | None = None) -> None:
        """Wait until the page shows all texts. Fail at once if it shows ``but_not``."""

        def shown() -> bool:
            text = self.text
            if but_not and but_not in text:
                self.give_up(f"the page shows '{but_not}'")
            return all(each in text for each in texts)

        self.until(shown, f"the page to show {', '.join(map(repr, texts))}")

    def click(self, xpath: str) -> None:
        """Wait until a visible element accepts a click, and click the first one."""

        def clicked() -> bool:
            visible = [element for element in self.all(xpath) if element.is_displayed()]
            if visible:
                visible[0].click()
            return bool(visible)

        self.until(clicked, f"something to click at {xpath}")

    def write_code(self, text: str) -> None:
        """Replace the text in the page's code editor."""
        write = (
            "const box = document.querySelector('.CodeMirror'); box?.CodeMirror.setValue(arguments[0]); return !!box"
        )
        self.until(lambda: self.driver.execute_script(write, text), "a code editor")

    def all(self, xpath: str) -> list[WebElement]:
        return self.driver.find_elements(By.XPATH, xpath)

    def until(self, condition: Callable[[], Found], what: str) -> Found:
        """Wait for a true value. Retry if an element vanishes or cannot be clicked yet."""
        until, last = time.monotonic() + WAIT_SECONDS, ""
        while time.monotonic() < until:
            try:
                if found := condition():
                    return found
            except WebDriverException as error:
                last = f" ({type(error).__name__})"
            time.sleep(0.2)
        return self.give_up(f"waited in vain for {what}{last}")

    def picture(self, name: str) -> Path:
        """Save a screenshot of the page."""
        file = self.folder / f"{name}.png"
        self.driver.save_screenshot(str(file))
        return file

    def give_up(self, why: str) -> Found:
        picture = self.picture("screenshot")
        raise AssertionError(f"{why}\n{self.driver.current_url}, screenshot {picture}\n{self.text}")

    def hosts(self) -> set[str]:
        """Return all hosts that received a request from a page since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        addresses = [message["params"].get("request", message["params"]).get("url", "") for message in messages]
        asked = [urlsplit(address) for address in addresses]
        return {each.hostname or "" for each in asked if each.scheme in {"http", "https", "ws", "wss"}}


@contextmanager
def chrome(folder: Path, *, chromium: str, driver: str) -> Iterator[Chrome]:
    """Yield a new browser with its own profile in ``folder``, and close the browser when the block ends."""
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={folder / 'chromium'}"):
        options.add_argument(flag)
    # The default start page on Debian is a search engine.
    options.add_experimental_option("prefs", {"session": {"restore_on_startup": 4, "startup_urls": ["about:blank"]}})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    # With an explicit path, selenium does not download a driver.
    window = Chrome(options=options, service=Service(driver))
    window.set_page_load_timeout(WAIT_SECONDS)
    try:
        yield window
    finally:
        window.quit()
