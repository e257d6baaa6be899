"""Selected shards are raw shards without the removed pairs. Later stages read only the selected shards."""

import pytest

from mobileclip2.data import sidecar
from mobileclip2.data.selection import removed_name
from mobileclip2.data.validate import KEPT
from mobileclip2.engine.shard_stage import raw_table, side_name
from mobileclip2.report.sheets import rows, training_records
from tests.filtered import make_filtered, run, selected
from tests.pipelines.small import edited


def test_later_stages_read_only_the_selected_pairs(tmp_path):
    pipeline = selected(make_filtered(tmp_path, keep=0.2))
    run(pipeline, "augmentations", "teacher_embeddings/wide/image", "teacher_embeddings/wide/text")
    # the pictures of Dagster's metadata skip the removed pairs too
    assert sum(len(list(rows(pipeline, group, views=True))) for group in pipeline.profile.group_names) == 4
    (selection,) = pipeline.read("selection")
    for group in pipeline.profile.group_names:
        (raw,), (kept,) = pipeline.read("raw_shards", group), pipeline.read("selected_shards", group)
        gone = sidecar.read(selection.fetch(removed_name(group)), sidecar.REMOVED).to_pylist()
        for shard in pipeline.inventory.group_shards(group):
            expected = [
                row
                for row in raw_table(raw, shard).to_pylist()
                if (shard.id, row["key"]) not in {(each["shard"], each["key"]) for each in gone}
            ]
            assert sidecar.read(kept.fetch(side_name(shard)), KEPT).to_pylist() == expected
            for stored in pipeline.read("teacher_embeddings/wide/image", group):
                keys, _ = sidecar.read_embeddings(stored.fetch(side_name(shard)))
                assert keys == [row["key"] for row in expected]


@pytest.mark.parametrize("pairs", [11, 2])
def test_students_train_only_on_the_selected_pairs(tmp_path, pairs):
    """With two pairs left, at least two of the four groups are empty."""
    profile = make_filtered(tmp_path, keep=pairs / 23 + 0.001)

    def change(values):
        values.update(groups=4, captioners=[], teachers=values["teachers"][:1])
        values["students"][0]["loss"] = {"captions": "real"}
        for student in values["students"]:
            student["train"]["batch"] = min(pairs, 8)

    pipeline = edited(profile, change)
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)
    dataset = [artifact.summary.samples for artifact in pipeline.read("reinforced_dataset")]
    assert sum(dataset) == pairs and (0 in dataset) == (pairs == 2)
    plain = pipeline.graph["student/plain"]
    (slice_,) = plain.slices.values()
    task = pipeline.task_for(plain, slice_, None)
    assert task is not None
    assert {str(artifact.summary.asset) for artifact in task.inputs["data"]} == {"selected_shards"}
    assert sum(artifact.summary.samples for artifact in task.inputs["data"]) == pairs
    for name in ("plain", "pupil"):
        assert training_records(pipeline, f"student/{name}")[-1]["step"] == 4
        assert pipeline.read(f"evaluation/{name}")
