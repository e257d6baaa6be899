"""The scores of each filter, the pairs with the best and the worst scores, and the counts of the selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import groupby
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from mobileclip2.config.filtering import Filter
from mobileclip2.data import sidecar
from mobileclip2.data.selection import removed_name
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.shard_stage import images_of, raw_table, side_name
from mobileclip2.report.examples import SIDE
from mobileclip2.store import Artifact

PAIRS = 6
"""number of shown pairs with the best scores, and with the worst scores"""
BINS = 1000
"""bins of the stored counts of scores, from -1 to 1; the figure merges them"""


@dataclass(frozen=True)
class ScoredPair:
    """A pair with its score. ``outcome`` is ``kept`` or the reason why the selection removed it, or empty."""

    key: str
    image: Image.Image
    caption: str
    score: float
    outcome: str = ""


@dataclass(frozen=True)
class FilterReport:
    """The scores of one filter.

    ``counts`` has the number of scores in each of :data:`BINS` equal intervals from -1 to 1. ``cut`` is the lowest score
    that the selection keeps before it compares images, or None if the selection does not use this filter.
    """

    name: str
    model: str
    counts: Sequence[int]
    best: Sequence[ScoredPair] = ()
    worst: Sequence[ScoredPair] = ()
    cut: float | None = None

    @property
    def pairs(self) -> int:
        """Return the number of scored pairs."""
        return sum(self.counts)


@dataclass(frozen=True)
class SelectionReport:
    """The counts of the selection. ``removed`` has the number of removed pairs by reason."""

    by: str
    pairs: int
    removed: Mapping[str, int]

    @property
    def kept(self) -> int:
        """Return the number of pairs that later stages use."""
        return self.pairs - sum(self.removed.values())


def filter_reports(pipeline: Pipeline) -> list[FilterReport]:
    """Collect the filters of the profile whose scores are in the store for all groups."""
    return [
        _filter_report(pipeline, each)
        for each in pipeline.profile.filtering
        if pipeline.is_current(f"filter_scores/{each.name}")
    ]


def selection_report(pipeline: Pipeline) -> SelectionReport | None:
    """Return the counts of the selection, or None if the store has no current selection."""
    select, stored = pipeline.profile.select, _selection(pipeline)
    if select is None or stored is None:
        return None
    return SelectionReport(select.by, stored.summary.facts["pairs"], stored.summary.skip_reasons)


def _selection(pipeline: Pipeline) -> Artifact | None:
    if pipeline.profile.select is None or not pipeline.is_current("selection"):
        return None
    (stored,) = pipeline.read("selection")
    return stored


_Row = tuple[float, str, str, str]
"""score, shard, key and group of a pair"""


def _filter_report(pipeline: Pipeline, filter_: Filter) -> FilterReport:
    counts = np.zeros(BINS, np.int64)
    best: list[_Row] = []
    worst: list[_Row] = []
    for group in pipeline.profile.group_names:
        (stored,) = pipeline.read(f"filter_scores/{filter_.name}", group)
        for shard in pipeline.inventory.group_shards(group):
            table = sidecar.read(stored.fetch(side_name(shard)), sidecar.SCORES)
            scores = table.column("score").to_numpy()
            # rounding can give a score of slightly more than 1
            counts += np.histogram(scores.clip(-1, 1), BINS, (-1, 1))[0]
            rows = [
                (score, shard.id, key, group)
                for score, key in zip(scores.tolist(), table.column("key").to_pylist(), strict=True)
            ]
            best = nsmallest(PAIRS, [*best, *rows], key=lambda row: (-row[0], *row[1:]))
            worst = nsmallest(PAIRS, [*worst, *rows])
    worst = [row for row in worst if row not in best]
    select = pipeline.profile.select
    selection = _selection(pipeline) if select is not None and select.by == filter_.name else None
    pairs = _pairs(pipeline, [*best, *worst], selection)
    return FilterReport(
        filter_.name,
        filter_.model,
        counts.tolist(),
        [pairs[row] for row in best],
        [pairs[row] for row in worst],
        selection.summary.facts["cut"] if selection else None,
    )


def _pairs(pipeline: Pipeline, rows: Sequence[_Row], selection: Artifact | None) -> dict[_Row, ScoredPair]:
    """Read the images and captions of pairs. Read each shard once."""
    found = {}
    for (group, shard_id), of_shard in groupby(sorted(rows, key=itemgetter(3, 1)), key=itemgetter(3, 1)):
        by_key = {row[2]: row for row in of_shard}
        (raw,) = pipeline.read("raw_shards", group)
        (shard,) = (shard for shard in pipeline.inventory.group_shards(group) if shard.id == shard_id)
        table = raw_table(raw, shard)
        table = table.filter(pc.is_in(table.column("key"), pa.array(by_key)))
        removed = sidecar.read(selection.fetch(removed_name(group)), sidecar.REMOVED).to_pylist() if selection else []
        reasons = {row["key"]: row["reason"] for row in removed if row["shard"] == shard_id}
        captions = table.column("caption").to_pylist()
        for (key, image), caption in zip(images_of(shard, table), captions, strict=True):
            image.thumbnail((SIDE, SIDE))
            outcome = reasons.get(key, "kept") if selection else ""
            found[by_key[key]] = ScoredPair(key, image, caption, by_key[key][0], outcome)
    return found
