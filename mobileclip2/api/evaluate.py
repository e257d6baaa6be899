"""Evaluate a loaded model on folders of evaluation sets."""

from __future__ import annotations

import os
from pathlib import Path

from mobileclip2.api.model import ImageTextModel
from mobileclip2.evaluation import evaluate as evaluation
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.progress import Progress, silent


def evaluate(
    model: ImageTextModel,
    *sets: str | os.PathLike[str],
    names: tuple[str, ...] = (),
    batch: int = 64,
    progress: Progress = silent,
) -> dict[str, dict[str, float | None]]:
    """Evaluate a model without training: zero-shot classification or retrieval, as the kind of each set is.

    Args:
        sets: folders in the layout of clip-benchmark and DataComp, such as ``mobileclip2 import --as-evaluation`` writes.
        names: a name for each set. By default, the name of the folder. A key of DataComp, such as ``imagenet1k``, gives
            the metrics of the suite.
        batch: images in a forward pass.

    Returns:
        The metrics of each set by name, between 0 and 1. ``main_metric`` is that of the set.

    Raises:
        UserError: a set is incomplete, or a sample is not usable.
    """
    folders = [Path(each) for each in sets]
    named = zip(names or [folder.resolve().name for folder in folders], folders, strict=True)
    opened = [EvaluationSet(name, folder) for name, folder in named]
    results = evaluation.evaluate(model.image_text, opened, batch=batch, device=model.device, progress=progress)
    return {result.key: dict(result.metrics) for result in results}
