from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from mobileclip2.config.evaluation_tasks import TASKS, averages
from mobileclip2.evaluation.gate import ComparisonRow
from mobileclip2.evaluation.latency import Latency, Tower
from mobileclip2.report.examples import Association, Candidate, Classified, Confusion, Retrieved, Share
from mobileclip2.report.page import Training
from mobileclip2.report.student import SetExamples, StudentReport, published_rows, render_student

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
PICTURE = Image.effect_noise((300, 200), 80).convert("RGB")
LATENCY = Latency(
    "ACME 9000, 1 thread", 32, Tower(450_000, 1.5, 2.5, 3.5, 99, 640.0), Tower(6_540_000, 0.4, 1, 2, 9, 77)
)


def page(word: str = "word") -> StudentReport:
    """Return a report with every part. ``word`` occurs in every kind of text from a profile or a set."""
    wrong = Classified(word, PICTURE, word, word, 7)
    right = Classified(word, PICTURE, word, word, 0)
    retrieved = [
        Retrieved(word, word, [Candidate(PICTURE, False), Candidate(PICTURE, True)], [PICTURE], 1),
        Retrieved(word, word, [Candidate(PICTURE, False)], [PICTURE], 40),
        Retrieved(word, PICTURE, [Candidate(word, False)], [word, word], 5),
    ]
    records = [{"step": float(step), "loss": 4 / step, f"{word}/acc1": step / 40} for step in range(1, 21)]
    return StudentReport(
        name=word,
        profile_name=word,
        created="2026-11-24",
        note=word,
        samples_seen=38_400,
        rows=[
            ComparisonRow(word, "acc1", 0.473, (0.451, 0.498)),
            ComparisonRow(word, "acc5", 0.7, (0.68, 0.72)),
            ComparisonRow("pairs", "mean_recall@1", 0.2, (0.1, 0.3)),
        ],
        confidence=0.95,
        latencies={word: LATENCY, "plain": LATENCY},
        axis=word,
        mains={word: 0.473, "plain": 0.3},
        training=Training(word, records, 128),
        sets=[
            SetExamples(
                word,
                1510,
                [wrong],
                [right],
                800,
                [Confusion(word, word, 3, 0.75)],
                [word, "b"],
                np.array([[0.25, 0.75], [0, 1.0]]),
                splits={word: [Share(word, 0.4, (0.3, 0.5), 12), Share("other", 0.8, (0.7, 0.9), 12)]},
            ),
            SetExamples("pairs", 30, retrieved=retrieved),
            SetExamples("cues", 30, associations=[Association(word, [Candidate(PICTURE, True, True)])]),
        ],
        software={word: word},
    )


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.in_cell = False
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in {"td", "th"}:
            self.cells[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.cells[-1][-1] += data

    def row(self, *starts: str) -> list[str]:
        rows = [[" ".join(cell.split()) for cell in row] for row in self.cells]
        return next(row for row in rows if row[: len(starts)] == list(starts))


def test_every_text_is_escaped_and_the_page_makes_no_network_requests() -> None:
    text = render_student(page(EVIL))
    parsed = Parsed(text)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in parsed.tags}
    assert not [name for _, found in parsed.tags for name in found if name.startswith("on")]
    for _, found in parsed.tags:
        for name in ("src", "href", "xlink:href"):
            assert (found.get(name) or "#").startswith(("data:image/webp;base64,", "#"))
    assert {tag for tag, _ in parsed.tags} == {tag for tag, _ in Parsed(render_student(page())).tags}
    assert parsed.text.count(EVIL) > 20 and "default-src 'none'" in text


def test_every_picture_has_alt_text_and_every_link_a_target() -> None:
    tags = Parsed(render_student(page())).tags
    images = [found for tag, found in tags if tag == "img"]
    assert len(images) == 8 and all(found.get("alt") for found in images)
    assert any(found["alt"] == "word, taken for word" for found in images)
    figures = [found for _, found in tags if found.get("role") == "img"]
    assert len(figures) == sum(tag == "svg" for tag, _ in tags) == 5 and all(found["aria-label"] for found in figures)
    ids = [found["id"] for _, found in tags if "id" in found]
    assert len(ids) == len(set(ids))
    targets = {(found.get(name) or "#")[1:] for _, found in tags for name in ("href", "xlink:href") if name in found}
    assert targets <= set(ids)


def test_the_tables_show_the_numbers_of_the_report() -> None:
    parsed = Parsed(render_student(page("nano")))
    assert parsed.row("nano", "top-1") == ["nano", "top-1", "47.3", "45.1 – 49.8"]
    assert parsed.row("top-5") == ["top-5", "70.0", "68.0 – 72.0"]
    assert parsed.row("nano", "0.5 + 6.5")[2:] == ["–"] * 6
    assert parsed.row("MobileCLIP2-S0")[:5] == ["MobileCLIP2-S0", "11.4 + 63.4", "71.5", "69.2", "86.6"]
    assert parsed.row("nano", "image") == ["nano", "image", "450 k", "1.50", "2.50", "3.50", "640"]
    assert parsed.row("text") == ["text", "6.54 M", "0.40", "1.00", "2.00", "77"]
    assert parsed.row("nano", "nano") == ["nano", "nano", "3", "75.0 %"]
    assert parsed.row("nano", "12")[:4] == ["nano", "12", "40.0", "30.0 – 50.0"]
    assert "ACME 9000, 1 thread" in parsed.text and "iPhone 12 Pro Max" in parsed.text
    assert "Averages with missing sets: Average of the 38 sets, ImageNet shifts" in parsed.text
    assert "The 1 of 800 whose right class has the highest rank, of 1,510 images" in parsed.text
    assert "✓ at place 41" in parsed.text and "✓ word · word" in Parsed(render_student(page())).text


def test_the_full_suite_has_averages_and_published_results() -> None:
    mains = {key: 0.3 + 0.01 * number for number, (key, task) in enumerate(TASKS.items()) if task.counts}
    rows = [ComparisonRow(key, TASKS[key].main or "", value, (value, value)) for key, value in mains.items()]
    found = averages(mains)
    rows += [ComparisonRow(name, "main metrics", value, (value, value)) for name, value in found.items()]
    report = replace(page("nano"), rows=rows, axis="average", mains={"nano": found["average"]})
    own = published_rows(report)[0]
    assert own.is_own and own.shares[0] == mains["imagenet1k"] and own.shares[5] == found["average"]
    parsed = Parsed(render_student(report))
    assert parsed.row("Average of the 38 sets")[1:3] == ["mean of 38 main metrics", f"{100 * found['average']:.1f}"]
    assert parsed.row("ImageNet shifts")[1] == "mean of 6 main metrics" and "Not averaged" not in parsed.text
    assert parsed.row("Caltech-101" + rows[0].set)[2] == f"{100 * rows[0].value:.1f}"


def test_empty_sections_are_left_out_and_many_sets_are_collapsed() -> None:
    bare = replace(page(), training=Training("word", [], 128), sets=[SetExamples("A", 1)], samples_seen=None)
    assert 'id="training"' not in render_student(bare) and "Samples seen" not in render_student(bare)
    many = replace(page(), sets=[SetExamples(f"S{n}", 1) for n in range(40)])
    assert "<details open>" not in render_student(many) and "<details open>" in render_student(bare)


def test_the_page_of_the_whole_suite_stays_small() -> None:
    """Use 480 images of noise at the size of the page, because noise compresses worst."""
    wrong = [Classified("k", PICTURE, "a", "b", 7)] * 12
    sets = [SetExamples(f"S{n}", 9, wrong) for n in range(40)]
    assert len(render_student(replace(page(), sets=sets))) < 6_000_000


def test_same_page_same_bytes() -> None:
    assert render_student(page()) == render_student(page())
