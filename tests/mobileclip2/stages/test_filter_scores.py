"""Stored scores equal the cosine similarity of the model called directly."""

import torch

from mobileclip2.data import sidecar
from mobileclip2.engine.shard_stage import images_of, raw_table, side_name
from mobileclip2.stages.load_model import load_image_text
from tests.filtered import make_filtered, selected


def test_scores_are_the_similarity_of_image_and_caption(tmp_path):
    pipeline = selected(make_filtered(tmp_path, keep=0.5))
    (stored,), (raw,) = pipeline.read("teacher/wide"), pipeline.read("raw_shards", "g00")
    (scores,) = pipeline.read("filter_scores/clean", "g00")
    model = load_image_text(stored, pipeline.inventory)
    for shard in pipeline.inventory.group_shards("g00"):
        table = raw_table(raw, shard)
        found = sidecar.read(scores.fetch(side_name(shard)), sidecar.SCORES)
        assert found.column("key").to_pylist() == table.column("key").to_pylist()
        images = [model.preprocess.tensor(model.preprocess.center(image)) for _, image in images_of(shard, table)]
        texts = model.embed_texts(table.column("caption").to_pylist())
        expected = (model.embed_images(torch.stack(images)) * texts).sum(dim=1)
        torch.testing.assert_close(torch.tensor(found.column("score").to_pylist()), expected, atol=1e-5, rtol=0)
    assert pipeline.graph["filter_scores/clean"].slices["whole"].declared == {}
