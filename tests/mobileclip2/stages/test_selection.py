"""The selection covers all groups, and a change of the share recomputes no score."""

import pytest

from demo.tars import write_tar
from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.data.selection import removed_name
from mobileclip2.engine.gc import delete, stored, unneeded
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.stages.selection import CONTAMINATED, DUPLICATE, LOW
from tests.filtered import STAGES, make_filtered, run, selected, set_selection
from tests.tiny import CLASSES, draw, encode


def removed(pipeline):
    (stored,) = pipeline.read("selection")
    return [
        row
        for group in pipeline.profile.group_names
        for row in sidecar.read(stored.fetch(removed_name(group)), sidecar.REMOVED).to_pylist()
    ]


def test_the_share_spans_all_groups_and_its_change_keeps_all_scores(tmp_path):
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


def test_an_unchanged_selection_recomputes_no_later_stage(tmp_path):
    profile = make_filtered(tmp_path, keep=0.5)
    pipeline = selected(profile)
    run(pipeline, "augmentations")
    (stored,) = pipeline.read("selection")
    # the same cut, as a threshold
    again = Pipeline(load(set_selection(profile, above=stored.summary.facts["cut"])))
    assert again.missing(again.graph["selection"], None)
    run(again, "selection", "selected_shards")
    assert again.is_current("augmentations")


def test_near_duplicates_are_removed_with_their_reason(tmp_path):
    pipeline = selected(make_filtered(tmp_path, keep=1.0, near_duplicates=0.01))
    assert {row["reason"] for row in removed(pipeline)} == {DUPLICATE}


@pytest.fixture
def planted(tmp_path):
    """Return the tiny profile with a shard of two evaluation pictures.

    One picture has the same bytes, and the other is encoded again.
    """
    profile = make_filtered(tmp_path, keep=1.0, decontaminate=["shapes"], contaminated_above=0.9999)
    copies = [("same", "webp", "WEBP", 3), ("again", "jpg", "JPEG", 5)]
    members = [
        (f"{key}.{suffix}", data)
        for key, extension, kind, number in copies
        for suffix, data in ((extension, encode(draw(CLASSES[number], f"test {number}"), kind)), ("txt", b"a shape"))
    ]
    write_tar(tmp_path / "shards" / "00004.tar", members)
    return profile


def test_planted_evaluation_pictures_are_found_and_the_others_are_kept(planted):
    pipeline = selected(planted)
    assert {row["key"]: row["reason"] for row in removed(pipeline)} == {"same": CONTAMINATED, "again": CONTAMINATED}
    assert sum(artifact.summary.samples for artifact in pipeline.read("selected_shards")) == 23


def test_one_group_selects_the_same_pairs_as_two(tmp_path):
    rule = {"keep": 0.7, "near_duplicates": 0.995, "decontaminate": ["shapes"], "contaminated_above": 0.998}
    one, two = (make_filtered(tmp_path / name, **rule) for name in ("one", "two"))
    one.write_text(one.read_text().replace("groups: 2", "groups: 1"))
    of_one, of_two = (
        {(row["shard"], row["key"], row["reason"]) for row in removed(selected(each))} for each in (one, two)
    )
    assert of_one == of_two and {reason for _, _, reason in of_one} == {LOW, DUPLICATE, CONTAMINATED}


def test_a_threshold_that_removes_every_pair_names_the_best_score(tmp_path):
    profile = make_filtered(tmp_path, above=1.0)
    with pytest.raises(
        UserError, match=r"no pair is left of 23: the best score is 0\.\d+, and 'above' is 1; lower 'above'"
    ):
        selected(profile)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_decontamination_that_removes_every_pair_names_its_threshold(tmp_path, groups):
    rule = {"near_duplicates": 1.0, "decontaminate": ["shapes"], "contaminated_above": 0.01}
    profile = make_filtered(tmp_path, keep=0.5, **rule)
    profile.write_text(profile.read_text().replace("groups: 2", f"groups: {groups}"))
    message = (
        r"no pair is left of 23: 11 pass the cut, .* at least 0\.01 to a picture of shapes; raise 'contaminated_above'"
    )
    with pytest.raises(UserError, match=message):
        selected(profile)


def test_gc_keeps_the_scores_and_drops_the_selection_of_an_old_share(tmp_path):
    profile = make_filtered(tmp_path, keep=0.5)
    selected(profile)
    pipeline = selected(set_selection(profile, keep=0.4))
    assert [each.asset for each in unneeded([pipeline], set(), []) if each.asset != "selected_shards"] == ["selection"]
    before = set(stored(pipeline))
    delete(pipeline, unneeded([pipeline], set(), []))
    assert {each.split("/")[0] for each in before - set(stored(pipeline))} == {"selection", "selected_shards"}
    assert all(pipeline.is_current(key) for key in STAGES)
    # the old share uses the same scores
    again = Pipeline(load(set_selection(profile, keep=0.5)))
    assert again.is_current("filter_scores/clean") and not again.is_current("selection")
