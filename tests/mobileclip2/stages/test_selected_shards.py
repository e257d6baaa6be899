"""Selected shards are raw shards without the removed pairs, and later stages see only them."""

from mobileclip2.data import sidecar
from mobileclip2.data.validate import KEPT
from mobileclip2.engine.shard_stage import raw_table, side_name
from mobileclip2.report.sheets import rows
from mobileclip2.stages.selection import REMOVED, removed_name
from tests.filtered import make_filtered, run, selected


def test_later_stages_see_only_the_selected_pairs(tmp_path):
    pipeline = selected(make_filtered(tmp_path, keep=0.2))
    run(pipeline, "augmentations", "teacher_embeddings/wide/image", "teacher_embeddings/wide/text")
    # the pictures of Dagster's metadata skip the removed pairs too
    assert sum(len(list(rows(pipeline, group, views=True))) for group in pipeline.profile.group_names) == 4
    (selection,) = pipeline.read("selection")
    for group in pipeline.profile.group_names:
        (raw,), (kept,) = pipeline.read("raw_shards", group), pipeline.read("selected_shards", group)
        gone = sidecar.read(selection.fetch(removed_name(group)), REMOVED).to_pylist()
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
