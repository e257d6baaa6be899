"""The selection covers all groups, and a change of the share computes no score again."""

import pytest

from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.stages.selection import DUPLICATE, LOW, REMOVED, removed_name
from tests.filtered import make_filtered, run, selected, set_selection


def removed(pipeline):
    (stored,) = pipeline.read("selection")
    return [
        row
        for group in pipeline.profile.group_names
        for row in sidecar.read(stored.fetch(removed_name(group)), REMOVED).to_pylist()
    ]


def test_a_share_is_of_all_groups_and_its_change_keeps_every_score(tmp_path):
    profile = make_filtered(tmp_path, keep=0.5)
    pipeline = selected(profile)
    (stored,) = pipeline.read("selection")
    assert (stored.summary.samples, stored.summary.skip_reasons) == (11, {LOW: 12})
    assert sum(stored.summary.facts["histogram"]) == stored.summary.facts["pairs"] == 23
    assert max(row["score"] for row in removed(pipeline)) <= stored.summary.facts["cut"]

    again = Pipeline(load(set_selection(profile, keep=0.4)))
    stale = {asset.key for asset, _ in again.stale()}
    assert {"selection", "selected_shards"} <= stale
    assert not {"raw_shards", "teacher/wide", "filter_scores/clean"} & stale


def test_a_selection_of_the_same_pairs_recomputes_nothing_after_it(tmp_path):
    profile = make_filtered(tmp_path, keep=0.5)
    pipeline = selected(profile)
    run(pipeline, "augmentations")
    (stored,) = pipeline.read("selection")
    # the same cut, as a threshold
    again = Pipeline(load(set_selection(profile, above=stored.summary.facts["cut"])))
    assert again.missing(again.graph["selection"], None)
    run(again, "selection", "selected_shards")
    assert again.is_current("augmentations")


def test_near_duplicates_and_evaluation_pictures_are_removed_with_their_reason(tmp_path):
    profile = make_filtered(tmp_path, keep=1.0, near_duplicates=0.01)
    pipeline = selected(profile)
    reasons = [row["reason"] for row in removed(pipeline)]
    assert set(reasons) == {DUPLICATE}
    set_selection(profile, keep=1.0, near_duplicates=1.0, decontaminate=["shapes"], contaminated_above=0.01)
    again = Pipeline(load(profile))
    with pytest.raises(UserError, match="no pair is left of 23"):
        run(again, "selection")
