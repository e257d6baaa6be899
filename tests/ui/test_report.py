"""Show a report in a browser at the width of a phone and of a desktop screen. All labels are completely visible."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver import Chrome

from mobileclip2.evaluation.results import Result, with_main
from mobileclip2.report.examples import Candidate
from mobileclip2.report.filtering import FilterReport, ScoredPair, SelectionReport
from mobileclip2.report.gallery import Confused, Gallery, GallerySet, Query, Ranking
from mobileclip2.report.page import EvaluatedModel, write_page
from mobileclip2.report.pipeline import Report, render_pipeline

PICTURE = Image.new("RGB", (64, 48), "red")
LONG = "a_model_with_a_name_that_is_much_longer_than_the_models_of_the_demo_which_are_short"
CLASS = "Rhabdophis-subminiatus-helleri-or-red-necked-keelback"
CUT_OFF = """
return ['figcaption', 'p', 'h3', 'h4', 'b', 'img', 'td']
  .flatMap(tag => [...document.querySelectorAll(`#gallery ${tag}, #filtering ${tag}`)])
  .filter(each => each.scrollWidth > each.clientWidth + 1 && each.clientWidth
    || each.getBoundingClientRect().right > document.documentElement.clientWidth).map(each => each.outerHTML.slice(0, 80))
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    rankings = [Ranking(model, [Candidate(PICTURE, place == 2) for place in range(5)], 2) for model in (LONG, "b", "c")]
    confused = [Confused(CLASS, f"{CLASS} {CLASS}", [PICTURE] * 3, PICTURE, {LONG: 3, "b": 1}, 12)]
    sets = [GallerySet(LONG, queries=[Query(CLASS * 3, PICTURE, rankings)]), GallerySet("pets", confused=confused)]
    gallery = Gallery({LONG: "teacher", "b": "student", "c": "baseline"}, LONG, sets)
    pairs = [ScoredPair(CLASS, PICTURE, CLASS * 4, -0.1234, "in-evaluation-set") for _ in range(6)]
    filters = [FilterReport(LONG, LONG, [0] * 550 + [7, 9, 4] + [0] * 447, pairs, pairs, 0.101)]
    selection = SelectionReport(LONG, 20_000_000, {"low-score": 14_000_000, "near-duplicate": 12})
    report = Report("t", "p", "d", gallery=gallery, filters=filters, selection=selection)
    write_page(render_pipeline(report), tmp_path / "report.html")
    return tmp_path / "report.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_results_of_four_models_fit_without_scrolling(browser: Chrome, tmp_path: Path, width: int) -> None:
    scores = {"acc1": 0.228, "acc5": 0.424}
    results = [Result(key, key, with_main(key, scores)) for key in ("emoji-861", "emoji-unseen-200")]
    names = [("lite0", "teacher"), ("lite2", "teacher"), ("reinforced", "student"), ("plain", "student")]
    models = [EvaluatedModel(name, kind, results, "trained on the raw pairs") for name, kind in names]
    write_page(render_pipeline(Report("t", "p", "d", models=models)), tmp_path / "report.html")
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.execute_script("return document.querySelectorAll('table, .chart svg').length") > 1
    scrolls = (
        "return [...document.querySelectorAll('.scroll, .chart')].filter(e => e.scrollWidth > e.clientWidth).length"
    )
    assert browser.execute_script(scrolls) == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_no_label_is_cut_off(browser: Chrome, page: Path, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.querySelectorAll('#gallery img').length") == 20
    assert browser.execute_script("return document.querySelectorAll('#filtering img').length") == 12
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(CUT_OFF) == []
