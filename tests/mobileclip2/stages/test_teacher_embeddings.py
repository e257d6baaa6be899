"""Stored embeddings equal those of each teacher called directly, at its own input size and normalization."""

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.data.augmentation import View, render
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.shard_stage import images_of, raw_table, side_name
from mobileclip2.models.build import from_config
from mobileclip2.stages.load_model import load_image_text
from tests.tiny import make_tiny


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    torch.set_num_threads(1)
    profile = make_tiny(tmp_path_factory.mktemp("tiny"))
    values = yaml.safe_load(profile.read_text())
    values["batch"] = 3  # smaller than a shard, and not a divisor of its size
    profile.write_text(yaml.safe_dump(values))
    pipeline = Pipeline(load(profile))
    for key in ("raw_shards", "augmentations"):
        pipeline.materialize(key, "g00")
    for name in ("wide", "narrow"):
        pipeline.materialize(f"teacher/{name}")
        for kind in ("image", "text"):
            pipeline.materialize(f"teacher_embeddings/{name}/{kind}", "g00")
    return pipeline


@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_each_teacher_embeds_the_stored_crop_at_its_own_size(pipeline, name):
    (stored,) = pipeline.read(f"teacher/{name}")
    teacher = load_image_text(stored, pipeline.inventory)
    (raw,) = pipeline.read("raw_shards", "g00")
    compared = 0
    for view, (views, embeddings) in enumerate(
        zip(
            pipeline.read("augmentations", "g00"),
            pipeline.read(f"teacher_embeddings/{name}/image", "g00"),
            strict=True,
        )
    ):
        assert embeddings.manifest.part == f"view-{view}"
        for shard in pipeline.inventory.group_shards("g00"):
            table = raw_table(raw, shard)
            drawn = sidecar.read(views.fetch(side_name(shard)), sidecar.VIEWS).to_pylist()
            keys, bits = sidecar.read_embeddings(embeddings.fetch(side_name(shard)))
            assert keys == table.column("key").to_pylist()
            for (key, image), row, found in zip(images_of(shard, table), drawn, bits, strict=True):
                assert row["key"] == key
                crop = render(image, View.from_json(row["view"]), teacher.preprocess.size)
                expected = teacher.embed_images(teacher.preprocess.tensor(crop)[None])[0]
                torch.testing.assert_close(sidecar.from_bits(found).float(), expected, atol=4e-3, rtol=0)
                compared += 1
    assert compared == 2 * 11


@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_text_embeddings_are_normalized_and_in_order(pipeline, name):
    (stored,) = pipeline.read(f"teacher/{name}")
    teacher = load_image_text(stored, pipeline.inventory)
    (raw,) = pipeline.read("raw_shards", "g00")
    (texts,) = pipeline.read(f"teacher_embeddings/{name}/text", "g00")
    for shard in pipeline.inventory.group_shards("g00"):
        table = raw_table(raw, shard)
        keys, bits = sidecar.read_embeddings(texts.fetch(side_name(shard)))
        assert keys == table.column("key").to_pylist()
        found = sidecar.from_bits(np.asarray(bits)).float()
        expected = teacher.embed_texts(table.column("caption").to_pylist())
        torch.testing.assert_close(found, expected, atol=4e-3, rtol=0)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(keys)), atol=1e-2, rtol=0)


def test_a_teacher_with_a_bias_embeds_like_any_other():
    config = {
        "embed_dim": 8,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    teacher = from_config({"model_cfg": config})
    assert teacher.model.logit_bias is not None
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = F.normalize(teacher.model.encode_image(images), dim=-1)
    # inference and autograd use different kernels with different rounding
    torch.testing.assert_close(teacher.embed_images(images), expected, atol=1e-5, rtol=1e-4)
    assert teacher.embed_texts(["a", "b"]).shape == (2, 8)
