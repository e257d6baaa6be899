"""Checks of stored data. They read what the stages have stored, at most :data:`ROWS` embeddings and a few scored pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline, Verdict
from mobileclip2.engine.shard_stage import SKIPPED
from mobileclip2.store import Artifact

JUDGED = 20
"""number of values below which a share says little, and a check passes"""

ROWS = 4096
"""number of embeddings of a slice that a check reads"""


def few_samples_are_bad(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Compare the share of bad samples with ``checks.bad_samples``."""
    skipped = sum(result.skip_reasons.values())
    share = skipped / max(1, result.samples + skipped)
    limit = pipeline.profile.checks.bad_samples
    # the stage fails at max_bad_share, so the check warns earlier
    limit = pipeline.profile.max_bad_share / 2 if limit is None else limit
    return Verdict(
        share <= limit,
        f"{share:.1%} of the samples are bad; the limit is {limit:.1%} (checks.bad_samples)",
        {"bad_share": share, **{f"skipped_{reason}": count for reason, count in result.skip_reasons.items()}},
    )


def captions_vary(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Compare the share of the most frequent caption and the share of degenerate captions with their limits.

    Degenerate captions only warn, because the stage has skipped them already.
    """
    limits = pipeline.profile.checks
    counts = Counter[str]()
    for artifact in artifacts(pipeline, result):
        for path in paths(artifact):
            counts.update(filter(None, sidecar.read(path, sidecar.CAPTIONS).column("caption").to_pylist()))
    written, total, failed = counts.total(), result.samples, sum(result.skip_reasons.values())
    ((most_frequent, times),) = counts.most_common(1) or [("", 0)]
    repeated, degenerate = times / max(1, written), failed / max(1, total)
    problems = []
    is_repeated = repeated > limits.repeated_captions and written >= JUDGED
    if is_repeated:
        problems.append(
            f"{repeated:.1%} of the captions are '{most_frequent}'; the limit is {limits.repeated_captions:.1%} "
            "(checks.repeated_captions)"
        )
    if degenerate > limits.degenerate_captions and total >= JUDGED:
        problems.append(
            f"{degenerate:.1%} of the captions are degenerate; the limit is {limits.degenerate_captions:.1%} "
            "(checks.degenerate_captions)"
        )
    numbers = {
        "most_frequent_share": repeated,
        "distinct_share": len(counts) / max(1, written),
        "degenerate_share": degenerate,
    }
    description = "; ".join(problems) or f"{len(counts)} distinct captions of {written}"
    return Verdict(not problems, description, numbers, is_warning=not is_repeated)


def embeddings_are_sound(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Compare the lengths of embeddings with 1, and the share of repeated image embeddings with its limit."""
    limits = pipeline.profile.checks
    rows = [row for artifact in artifacts(pipeline, result) if len(row := _embeddings(artifact))]
    norms = np.concatenate([np.empty(0, np.float32), *(np.linalg.norm(each, axis=1) for each in rows)])
    error = float(np.abs(norms - 1).max(initial=0)) if np.isfinite(norms).all() else float("inf")
    total = sum(map(len, rows))
    distinct = sum(len(np.unique(each, axis=0)) for each in rows)
    repeated = 1 - distinct / max(1, total)
    problems = []
    if error > limits.norm_error:
        found = f"differ from 1 by up to {error:.3g}" if np.isfinite(error) else "are not finite"
        problems.append(f"lengths of embeddings {found}; the limit is {limits.norm_error:g} (checks.norm_error)")
    # equal texts have equal embeddings
    if result.asset.key.kind == "image" and repeated > limits.repeated_embeddings and total >= JUDGED:
        problems.append(
            f"{repeated:.1%} of the image embeddings repeat another one; the limit is {limits.repeated_embeddings:.1%} "
            "(checks.repeated_embeddings)"
        )
    numbers = {"repeated_share": repeated, "compared": total}
    if np.isfinite(error):
        numbers["largest_norm_error"] = error
    return Verdict(not problems, "; ".join(problems) or f"{total} embeddings are normalized", numbers)


def _embeddings(artifact: Artifact) -> np.ndarray:
    """Return the first embeddings of a slice, float32 ``[n, D]``."""
    found: list[np.ndarray] = []
    for path in paths(artifact):
        with sidecar.Embeddings(path) as stored:
            found.append(stored.first(ROWS - sum(map(len, found))))
        if sum(map(len, found)) >= ROWS:
            break
    bits = np.concatenate(found) if found else np.empty((0, 0), np.uint16)
    numbers: np.ndarray = (bits.astype(np.uint32) << 16).view(np.float32)
    return numbers


def artifacts(pipeline: Pipeline, result: MaterializeResult) -> list[Artifact]:
    """Return the outputs of a materialization."""
    return [Artifact(pipeline.storage, summary) for summary in result.summaries.values()]


def sidecar_names(artifact: Artifact) -> Iterator[str]:
    """Yield the name of each sidecar of an output."""
    for file in artifact.manifest.files:
        if file.name.endswith(".parquet") and not file.name.endswith(SKIPPED):
            yield file.name


def paths(artifact: Artifact) -> Iterator[Path]:
    """Yield a local copy of each sidecar of an output."""
    return map(artifact.fetch, sidecar_names(artifact))
