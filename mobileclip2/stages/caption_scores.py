"""Compare synthetic captions with real ones by a teacher's image-text similarity, on the first pairs of a group."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from PIL import Image

from mobileclip2.data import sidecar
from mobileclip2.engine.graph import pairs_of
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline
from mobileclip2.engine.shard_stage import images_of, raw_table, side_name
from mobileclip2.models.device import choose_device, inference
from mobileclip2.stages.data_checks import JUDGED, Verdict, artifacts
from mobileclip2.stages.load_model import load_image_text


def captions_fit_images(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Compare the drop of the mean similarity from real to synthetic captions with ``checks.caption_score_drop``.

    The first teacher of the profile that is stored scores the pairs. Without one, the captions are not judged.
    """
    limits = pipeline.profile.checks
    assert result.group is not None
    teachers = [f"teacher/{teacher.name}" for teacher in pipeline.profile.teachers]
    stored = next((key for key in teachers if pipeline.is_current(key)), None)
    if stored is None or not limits.scored_pairs:
        reason = "checks.scored_pairs is 0" if stored else f"no teacher is stored yet ({', '.join(teachers) or 'none'})"
        return Verdict(True, f"not judged: {reason}")
    pairs = list(islice(_pairs(pipeline, result), limits.scored_pairs))
    numbers: dict[str, float] = {"scored_pairs": len(pairs)}
    if len(pairs) < JUDGED:
        return Verdict(True, f"not judged: there are only {len(pairs)} captions", numbers)
    real, synthetic = _scores(pipeline, stored, pairs)
    drop = float(real.mean() - synthetic.mean())
    numbers |= {
        "real_score": float(real.mean()),
        "synthetic_score": float(synthetic.mean()),
        "score_drop": drop,
        "share_above_real": float((synthetic > real).float().mean()),
    }
    return Verdict(
        drop <= limits.caption_score_drop,
        f"{stored} scores synthetic captions {numbers['synthetic_score']:.3f} and real ones {numbers['real_score']:.3f}; "
        f"the largest accepted drop is {limits.caption_score_drop:g} (checks.caption_score_drop)",
        numbers,
    )


def _pairs(pipeline: Pipeline, result: MaterializeResult) -> Iterator[tuple[Image.Image, str, str]]:
    """Yield image, real caption and first synthetic caption of each sample whose captioner did not fail."""
    group = result.group
    assert group is not None
    (raw,) = pipeline.read(pairs_of(pipeline.profile), group)
    written = artifacts(pipeline, result)[0]
    for shard in pipeline.inventory.group_shards(group):
        table = raw_table(raw, shard)
        real = table.column("caption").to_pylist()
        synthetic = sidecar.read(written.fetch(side_name(shard)), sidecar.CAPTIONS).column("caption").to_pylist()
        for (_, image), text, caption in zip(images_of(shard, table), real, synthetic, strict=True):
            if caption:
                yield image, text, caption


def _scores(
    pipeline: Pipeline, teacher: str, pairs: list[tuple[Image.Image, str, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosine similarities ``[n]`` of the images to their real and to their synthetic captions."""
    (artifact,) = pipeline.read(teacher)
    model = load_image_text(artifact, pipeline.inventory)
    device = choose_device(pipeline.profile.device)
    model.model.to(device)
    images, texts, captions = zip(*pairs, strict=True)
    preprocess = model.preprocess
    pixels = torch.stack([preprocess.pixels(preprocess.center(image)) for image in images])
    with inference(device):
        embedded = model.embed_images(preprocess.normalized(pixels.to(device)))
        real, synthetic = ((embedded * model.embed_texts(each)).sum(1).cpu() for each in (texts, captions))
    return real, synthetic
