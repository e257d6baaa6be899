"""The report shows the scores of a filter, its best and worst pairs, and what the selection removed."""

from __future__ import annotations

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.report.filtering import BINS, PAIRS, filter_reports, selection_report
from mobileclip2.report.gather import gather
from mobileclip2.report.pipeline import render_pipeline
from mobileclip2.stages.selection import DUPLICATE, LOW
from tests.filtered import make_filtered, run, selected


@pytest.fixture
def pipeline(tmp_path):
    return selected(make_filtered(tmp_path, keep=0.5, near_duplicates=0.999))


def test_scores_are_counted_and_the_best_and_worst_pairs_have_outcomes(pipeline):
    (found,) = filter_reports(pipeline)
    assert (found.name, found.model, len(found.counts), found.pairs) == ("clean", "teacher/wide", BINS, 23)
    best, worst = ([pair.score for pair in pairs] for pairs in (found.best, found.worst))
    assert len(best) == len(worst) == PAIRS
    assert best == sorted(best, reverse=True) and worst == sorted(worst) and min(best) > max(worst)
    assert found.cut is not None and min(best) > found.cut > max(worst)
    assert {pair.outcome for pair in found.worst} == {LOW}
    assert {pair.outcome for pair in found.best} <= {"kept", DUPLICATE}
    assert all(pair.caption.startswith("a ") and pair.image.size == (48, 48) for pair in found.best)


def test_the_selection_is_counted(pipeline):
    (stored,) = pipeline.read("selection")
    found = selection_report(pipeline)
    assert found and (found.by, found.pairs, found.kept) == ("clean", 23, stored.summary.samples)
    assert found.removed == stored.summary.skip_reasons and found.removed[LOW] == 12


def test_the_page_has_the_section_and_each_picture_has_a_caption(pipeline):
    page = render_pipeline(gather(pipeline))
    section = page.partition('id="filtering"')[2].partition("</section>")[0]
    (found,) = filter_reports(pipeline)
    assert f"cut {found.cut:.3f}" in section and section.count("<img") == 2 * PAIRS and 'alt=""' not in section
    for row in ("kept", "removed: score below the cut", "removed: the image is in an evaluation set"):
        assert row in section


def test_a_few_pairs_are_shown_once(tmp_path):
    pipeline = selected(make_filtered(tmp_path, keep=1.0))
    (found,) = filter_reports(pipeline)
    assert not {pair.key for pair in found.best} & {pair.key for pair in found.worst}


def test_without_scores_there_is_no_section(tmp_path):
    pipeline = Pipeline(load(make_filtered(tmp_path, keep=0.5)))
    run(pipeline, "raw_shards", "teacher/wide")
    assert filter_reports(pipeline) == [] and selection_report(pipeline) is None
    assert 'id="filtering"' not in render_pipeline(gather(pipeline))
    run(pipeline, "filter_scores/clean")
    (found,) = filter_reports(pipeline)
    assert found.cut is None and {pair.outcome for pair in found.best} == {""}
