"""Compare synthetic captions with real ones by a teacher's image-text similarity, on the first pairs of a group."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from PIL import Image

from mobileclip2.data import sidecar
from mobileclip2.engine.graph import pairs_of
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline, Verdict
from mobileclip2.engine.shard_stage import images_of, raw_table, side_name
from mobileclip2.models.device import choose_device, inference
from mobileclip2.stages.data_checks import JUDGED, artifacts
from mobileclip2.stages.load_model import load_image_text

CERTAIN = 3
"""number of standard errors by which real captions must score above others, so that the teacher can judge"""


def captions_fit_images(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Compare the fit of synthetic captions with ``checks.caption_fit``.

    The scale of similarities differs between teachers. So the mean similarity of synthetic captions is placed between that of
    the captions of other images, which is 0, and that of real captions, which is 1. The first teacher of the profile that is
    stored scores the pairs. Without one, the captions are not judged.
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
    real, synthetic, other = _scores(pipeline, stored, pairs)
    margin = float(real.mean() - other.mean())
    numbers |= {
        "real_score": float(real.mean()),
        "synthetic_score": float(synthetic.mean()),
        "other_score": float(other.mean()),
    }
    if margin <= CERTAIN * float(real.std()) / len(pairs) ** 0.5:
        return Verdict(True, f"not judged: {stored} does not prefer real captions to those of other images", numbers)
    fit = float(synthetic.mean() - other.mean()) / margin
    return Verdict(
        fit >= limits.caption_fit,
        f"{stored} finds a fit of {fit:.2f}, where 1 is that of real captions and 0 that of captions of other images; "
        f"the smallest accepted fit is {limits.caption_fit:g} (checks.caption_fit)",
        {**numbers, "caption_fit": fit},
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the cosine similarities of images to their real captions, their synthetic captions, and other real captions."""
    (artifact,) = pipeline.read(teacher)
    model = load_image_text(artifact, pipeline.inventory)
    device = choose_device(pipeline.profile.device)
    model.model.to(device)
    images, texts, captions = zip(*pairs, strict=True)
    preprocess = model.preprocess
    pixels = torch.stack([preprocess.pixels(preprocess.center(image)) for image in images])
    with inference(device):
        embedded = model.embed_images(preprocess.normalized(pixels.to(device)))
        similarity = (embedded @ model.embed_texts(texts).T).cpu()
        synthetic = (embedded * model.embed_texts(captions)).sum(1).cpu()
    differs = torch.tensor([[text != other for other in texts] for text in texts])
    return similarity.diagonal(), synthetic, similarity[differs]
