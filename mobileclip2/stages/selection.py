"""Decide over all groups which pairs later stages use, and store the reason of every other pair."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mobileclip2.config.filtering import Select
from mobileclip2.data import sidecar
from mobileclip2.data.selection import at_least, best_share, by_rank, near_any, near_duplicates, removed_name
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard_stage import SKIPPED
from mobileclip2.errors import UserError
from mobileclip2.evaluation.features import Features
from mobileclip2.models.device import choose_device
from mobileclip2.stages.evaluation_sets import planned_sets
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.store import Artifact
from mobileclip2.store.user_cache import cache_folder

MAX_COMPARED = 2_000_000
"""maximum number of pairs whose images are compared; 512 numbers for each of them take 8 GB, with the copy of the kept ones"""

BINS = 50
"""bins of the histogram of all scores, from -1 to 1"""

LOW, DUPLICATE, CONTAMINATED = "low-score", "near-duplicate", "in-evaluation-set"


class Pair(NamedTuple):
    """One scored pair and the row of its embedding in the sidecar of its shard."""

    group: str
    shard: str
    key: str
    artifact: Artifact
    row: int


def run(batch: TaskBatch) -> None:
    """Select the pairs of all groups and store what is removed, by group."""
    (task,) = batch.tasks
    select = batch.profile.select
    assert select is not None
    pairs, scores = _read(task.inputs["scores"])
    if not pairs:
        raise UserError("select: there is no valid pair in any group; see the skipped samples of raw_shards")
    ranked = by_rank(scores, [(pair.shard, pair.key) for pair in pairs])
    if select.keep is not None:
        passed = best_share(ranked, select.keep)
    else:
        assert select.above is not None
        passed = at_least(ranked, scores, select.above)
    reasons = dict.fromkeys(np.setdiff1d(ranked, passed).tolist(), LOW)
    if len(passed) and (select.near_duplicates is not None or select.decontaminate):
        reasons |= _compare(batch, task, select, pairs, passed)
    if len(reasons) == len(pairs):
        raise UserError(_no_pair_left(select, len(pairs), len(passed), float(scores[ranked[0]])))
    _store(batch, task, pairs, scores, reasons, float(scores[passed[-1]]))


def _no_pair_left(select: Select, pairs: int, passed: int, best: float) -> str:
    if not passed:
        return (
            f"select: no pair is left of {pairs:,}: the best score is {best:.4f}, and 'above' is {select.above:g}; "
            "lower 'above', or use 'keep' to select a share"
        )
    return (
        f"select: no pair is left of {pairs:,}: {passed:,} pass the cut, and the image of each has a similarity of at least "
        f"{select.contaminated_above:g} to a picture of {', '.join(select.decontaminate)}; raise 'contaminated_above', or "
        "use other shards if they really hold the evaluation pictures"
    )


def _read(artifacts: list[Artifact]) -> tuple[list[Pair], np.ndarray]:
    pairs: list[Pair] = []
    scores = [np.empty(0, np.float32)]
    for artifact in artifacts:
        group = artifact.summary.group
        assert group is not None
        for name in (file.name for file in artifact.manifest.files if not file.name.endswith(SKIPPED)):
            table = sidecar.read(artifact.fetch(name), sidecar.SCORES)
            shard = name.removesuffix(".parquet")
            keys = table.column("key").to_pylist()
            pairs += [Pair(group, shard, key, artifact, row) for row, key in enumerate(keys)]
            scores.append(table.column("score").to_numpy())
    return pairs, np.concatenate(scores)


def _compare(batch: TaskBatch, task: Task, select: Select, pairs: list[Pair], passed: np.ndarray) -> dict[int, str]:
    """Return the pairs above the cut that are removed because of their image."""
    if len(passed) > MAX_COMPARED:
        raise UserError(
            f"select: 'near_duplicates' and 'decontaminate' compare at most {MAX_COMPARED:,} pairs, and {len(passed):,} "
            "pass the cut; keep a smaller share, or remove duplicates before the import"
        )
    positions_of: dict[str, list[int]] = {}
    for position, row in enumerate(passed.tolist()):
        positions_of.setdefault(pairs[row].shard, []).append(position)
    features = np.empty((0, 0), np.float32)
    for shard, positions in positions_of.items():
        artifact = pairs[passed[positions[0]]].artifact
        _, bits = sidecar.read_embeddings(artifact.fetch(f"{shard}.parquet"))
        if not features.size:
            features = np.empty((len(passed), bits.shape[1]), np.float32)
        chosen = bits[[pairs[passed[position]].row for position in positions]]
        features[positions] = (chosen.astype(np.uint32) << 16).view(np.float32)
    # rounding to bf16 changes the length, and equal images must have a similarity of 1
    features /= np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    removed: dict[int, str] = {}
    for name in select.decontaminate:
        found = near_any(features, _features_of_set(batch, task, name), select.contaminated_above)
        removed |= dict.fromkeys(passed[found].tolist(), CONTAMINATED)
    if select.near_duplicates is not None:
        clean = np.array([row not in removed for row in passed.tolist()])
        duplicate = near_duplicates(features[clean], select.near_duplicates - 1e-6)
        removed |= dict.fromkeys(passed[clean][duplicate].tolist(), DUPLICATE)
    return removed


def _features_of_set(batch: TaskBatch, task: Task, name: str) -> np.ndarray:
    """Embed the pictures of an evaluation set. The evaluation of the same model shares the cache."""
    stored, device = task.only("model"), choose_device(batch.profile.device)
    model = load_image_text(stored, batch.inventory)
    model.model.to(device)
    code = batch.pipeline.graph[f"evaluation/{stored.summary.asset.name}"].code_version
    cache = cache_folder() / "features" / f"{stored.summary.data_version}-{code}-{device.type}"
    features = Features(model, batch=batch.profile.batch, feature_cache=cache)
    with planned_sets(batch, task, "set", [name]) as (opened,):
        embedded: np.ndarray = features.of_images(opened.samples(), name).numpy()
    features.save()
    return embedded


def _store(
    batch: TaskBatch, task: Task, pairs: list[Pair], scores: np.ndarray, reasons: dict[int, str], cut: float
) -> None:
    removed: dict[str, list[dict[str, object]]] = {group: [] for group in batch.profile.group_names}
    for row in sorted(reasons):
        pair = pairs[row]
        removed[pair.group].append(
            {"shard": pair.shard, "key": pair.key, "reason": reasons[row], "score": float(scores[row])}
        )
    for group, rows in removed.items():
        task.output.write(removed_name(group), sidecar.to_bytes(pa.Table.from_pylist(rows, sidecar.REMOVED)))
    histogram, _ = np.histogram(scores, BINS, (-1, 1))
    task.commit(
        [removed_name(group) for group in removed],
        samples=len(pairs) - len(reasons),
        skip_reasons=dict(Counter(reasons.values())),
        facts={"pairs": len(pairs), "cut": cut, "histogram": histogram.tolist()},
    )
