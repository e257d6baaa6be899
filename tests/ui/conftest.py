from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from tests.ui.page import Page, chrome
from tests.ui.server import serve


@pytest.fixture(scope="module")
def profile(tiny_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ui") / "tiny"
    return Path(shutil.copytree(tiny_template, folder)) / "tiny.yaml"


@pytest.fixture(scope="module")
def pipeline(profile: Path) -> Pipeline:
    return Pipeline(load(profile))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver; on Debian: apt-get install chromium chromium-driver")
    with chrome(tmp_path_factory.mktemp("browser"), chromium=chromium, driver=driver) as window:
        yield window


@pytest.fixture(scope="module")
def address(browser: Chrome, profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of the running interface. The interface is not started without a browser."""
    with serve(profile, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def page(browser: Chrome, address: str, tmp_path: Path) -> Page:
    return Page(browser, address, tmp_path)
