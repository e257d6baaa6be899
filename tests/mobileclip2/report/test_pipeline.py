from __future__ import annotations

from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from mobileclip2.config.study import Study, StudyRow
from mobileclip2.evaluation.results import Result, with_main
from mobileclip2.evaluation.wise_ft import Point
from mobileclip2.report.filtering import FilterReport, ScoredPair, SelectionReport
from mobileclip2.report.gallery import Candidate, Confused, Gallery, GallerySet, Query, Ranking
from mobileclip2.report.page import EvaluatedModel, Tile, Training, duration, write_page
from mobileclip2.report.pictures import SampleRow
from mobileclip2.report.pipeline import Curve, Report, Skip, Stage, metric_rows, render_pipeline
from mobileclip2.report.study import StudyResult
from mobileclip2.store.manifest import ManifestSummary

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def _results(acc1: float) -> list[Result]:
    retrieval = {"text_retrieval_recall@1": acc1, "image_retrieval_recall@1": acc1 / 2, "mean_recall@1": 0.75 * acc1}
    return [
        Result("emoji-861", "emoji-861", with_main("emoji-861", {"acc1": acc1, "acc5": acc1 * 1.5})),
        Result("emoji-retrieval", "emoji-retrieval", with_main("emoji-retrieval", retrieval)),
    ]


def _summary(word: str, group: str | None, samples: int, skip_reasons: dict[str, int]) -> ManifestSummary:
    return ManifestSummary(
        asset=word,
        part=word,
        group=group,
        fingerprint=word,
        code_version=word,
        declared={},
        inputs={},
        samples=samples,
        skipped=sum(skip_reasons.values()),
        skip_reasons=skip_reasons,
        facts={},
        data_version=word,
        size=0,
        watched=None,
    )


def _pair(word: str) -> ScoredPair:
    return ScoredPair(word, Image.new("RGB", (64, 48), "blue"), word, 0.2, word)


def _gallery(word: str) -> Gallery:
    picture = Image.new("RGB", (64, 48), "green")
    query = Query(word, picture, [Ranking(word, [Candidate(picture, right=True)], 0)])
    confused = Confused(word, word, [picture], picture, {word: 3}, 7)
    return Gallery({word: word}, word, [GallerySet(word, [query], [confused])])


def _study(word: str) -> StudyResult:
    rows = [StudyRow.model_construct(name=word)]
    return StudyResult(
        Study.model_construct(name=word, student=word, seeds=[0], rows=rows), {word: {f"{word}/acc1": [0.1]}}
    )


def _report(word: str = "word") -> Report:
    """Return a report with every part. ``word`` occurs in every kind of text."""
    records = [{"step": float(step), "loss": 4 / step, f"{word}/acc1": step / 40} for step in range(1, 21)]
    return Report(
        title=word,
        profile_name=word,
        created=word,
        models=[
            EvaluatedModel("lite0", "teacher", _results(0.611), word),
            EvaluatedModel("lite2", "teacher", _results(0.639), word),
            EvaluatedModel("reinforced", "student", _results(0.473), word, 38_400),
            EvaluatedModel(word, "student", _results(0.305), word, 38_400),
        ],
        highlights=[Tile(word, word, word)],
        trainings=[Training(word, records, 128), Training("plain", records, 128)],
        filters=[FilterReport(word, word, [0, 3, 5, 1], [_pair(word)], [_pair(word)], 0.1)],
        selection=SelectionReport(word, 9, {"low-score": 3}),
        gallery=_gallery(word),
        studies=[_study(word)],
        curves=[Curve(word, [Point(weight, {word: {"main_metric": weight}}) for weight in (0.0, 0.5, 1.0)], 0.5)],
        samples=[
            SampleRow(word, Image.new("RGB", (300, 200), "red"), [Image.new("RGB", (64, 64))], word, [(word, word)])
        ],
        skips=[Skip(word, word, word, word, word)],
        stages=[
            Stage(
                word,
                [_summary(word, word, 300, {word: 3}), _summary(word, None, 7, {})],
                word,
                word,
                [word],
                75.0,
            ),
            Stage("evaluation/x", [], seconds=None),
        ],
        profile=word,
        software={word: word},
    )


class _Page(HTMLParser):
    """Collect the tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_text_is_escaped() -> None:
    page = render_pipeline(_report(EVIL))
    parsed = _Page(page)
    assert "script" not in parsed.tags
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert all(
        (value or "").startswith("data:image/webp;base64,") for name, value in parsed.attributes if name == "src"
    )
    assert parsed.tags == _Page(render_pipeline(_report("word"))).tags
    assert parsed.text.count(EVIL) > 20, "and shown as it is"


def test_page_makes_no_network_requests() -> None:
    page = render_pipeline(_report())
    assert "http://" not in page and "https://" not in page and "@import" not in page
    for name, value in _Page(page).attributes:
        if name in {"src", "href", "xlink:href", "data", "action", "srcset"}:
            assert (value or "").startswith(("data:", "#"))
    assert "default-src 'none'" in page


def test_ids_are_unique_and_links_have_targets() -> None:
    attributes = _Page(render_pipeline(_report())).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {(value or "")[1:] for name, value in attributes if name in {"href", "xlink:href"}}
    assert targets <= set(ids)


def test_headline_table() -> None:
    models = [replace(model, name=f"m{number}") for number, model in enumerate(_report().models)]
    rows = metric_rows(models)
    assert [(row.set, row.metric, row.first) for row in rows] == [
        ("emoji-861", "top-1", 2),
        ("emoji-861", "top-5", 0),
        ("emoji-retrieval", "text → image recall@1", 2),
        ("emoji-retrieval", "image → text recall@1", 0),
    ]
    assert list(rows[0].values) == [0.611, 0.639, 0.473, 0.305]
    assert list(rows[0].best) == [False, True, True, False]
    page = render_pipeline(_report())
    assert '<td class="number student best">47.3</td>' in page and '<td class="number student">30.5</td>' in page


def test_a_model_without_a_set_has_a_dash() -> None:
    other = [Result("winogavil", "WinoGAViL", {"jaccard_score_10-12": 0.5, "main_metric": 0.5}), *_results(0.2)[:1]]
    models = [EvaluatedModel("a", "student", _results(0.3)), EvaluatedModel("b", "student", other)]
    rows = {(row.set, row.metric): row for row in metric_rows(models)}
    assert list(rows["winogavil", "main metric"].values) == [None, 0.5]
    assert list(rows["winogavil", "main metric"].best) == [False, False]
    assert '<td class="number student">–</td>' in render_pipeline(Report("t", "p", "d", models))


def test_accuracy_is_plotted_over_samples_seen_with_teacher_levels() -> None:
    records = [{"step": float(step), "loss": 1.0, "emoji-861/acc1": 0.1} for step in range(1, 21)]
    report = replace(_report(), trainings=[Training("reinforced", records, 1000)])
    page = render_pipeline(report)
    assert "20 k" in page and "reinforced  10.0 %" in page and "lite2  63.9 %" in page


def test_skipped_samples_are_listed() -> None:
    page = render_pipeline(_report("odd"))
    assert "Nothing was skipped" not in page and "one by one" in page
    many = replace(_report(), skips=[Skip("s", "0", f"key{n}", "r") for n in range(1000)])
    page = render_pipeline(many)
    assert "The first 200 of 1,000 samples" in page and "key199" in page and "key200" not in page


def test_empty_report() -> None:
    page = render_pipeline(Report("nothing yet", "demo", "today"))
    assert "Nothing was skipped" in page and "Results" not in page
    assert all(getattr(_report(), field.name) for field in fields(Report)), "the other tests see each part"


def test_same_report_same_bytes(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_page(render_pipeline(_report()), tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.04, "0.0 s"), (9.96, "10.0 s"), (75, "1 min 15 s"), (59.7, "1 min 0 s"), (7322, "2 h 2 min")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
