"""What a filter removes: the demo's pairs, 30 % of them with the caption of another pair.

The filter is the demo's teacher ``lite0``, trained on the clean corpus alone. For each share that ``select.keep`` keeps, the
table shows how many of the removed pairs are noise (precision) and how much of the noise is removed (recall). One seed.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import yaml

from mobileclip2.config.profile import parse
from mobileclip2.data import sidecar
from mobileclip2.data.tar import TarWriter, read_samples
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.stages.selection import REMOVED, removed_name
from pipelines.profiles import PROFILES

NOISE = 0.3
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)
DEMO = Path(__file__).parents[1] / "demo"
TRAINED = ("raw_shards", "caption_corpus", "teacher", "filter_scores", "selection")


def write_noisy(folder: Path) -> tuple[set[str], int]:
    """Copy the demo's shards with the captions of some pairs exchanged. Return the keys of these pairs, and all pairs."""
    samples = []
    for path in sorted((DEMO / "shards").glob("*.tar")):
        with path.open("rb") as file:
            samples += [(path.name, sample) for sample in read_samples(file, path.name)]
    noisy = random.Random(0).sample(range(len(samples)), int(NOISE * len(samples)))
    captions = [samples[number][1].members["txt"] for number in noisy]
    for number, caption in zip(noisy, [*captions[1:], captions[0]], strict=True):
        samples[number][1].members["txt"] = caption
    folder.mkdir()
    for name in sorted({name for name, _ in samples}):
        with TarWriter(folder / name) as tar:
            for shard, sample in samples:
                if shard == name:
                    tar.write(sample.key, {each: sample.members[each] for each in sample.members if each != "json"})
    return {samples[number][1].key for number in noisy}, len(samples)


def pipeline_of(folder: Path, share: float) -> Pipeline:
    """Return the demo with the noisy shards, the filter and a selection of ``share``."""
    demo: dict[str, Any] = yaml.safe_load((PROFILES / "demo.yaml").read_text())
    teacher = next(each for each in demo["teachers"] if each["name"] == "lite0")
    teacher["locked"]["train_on"] = ["caption_corpus/labels"]
    values = {
        "name": "filtering",
        "store": "store",
        "groups": 4,
        "sources": [{"name": "noisy", "url": "shards"}],
        "caption_corpora": [
            {**corpus, "url": str(DEMO / "corpus" / corpus["name"])} for corpus in demo["caption_corpora"]
        ],
        "teachers": [teacher],
        "filtering": [{"name": "clean", "model": "teacher/lite0"}],
        "select": {"by": "clean", "keep": share},
        "dataset": {"teachers": []},  # only the filter is measured
    }
    return Pipeline(parse(yaml.safe_dump(values, sort_keys=False), origin=folder / "profile.yaml"))


def measure() -> dict[str, Any]:
    """Score the pairs once, and select each share."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        noise, pairs = write_noisy(folder / "shards")
        rows = []
        for share in SHARES:
            pipeline, computed = pipeline_of(folder, share), []
            for key, asset in pipeline.graph.items():
                if asset.stage in TRAINED:
                    for group in pipeline.groups(asset):
                        computed += [str(key)] * bool(pipeline.materialize(key, group).computed)
            (selection,) = pipeline.read("selection")
            removed: set[str] = set()
            for group in pipeline.profile.group_names:
                removed |= set(sidecar.read(selection.fetch(removed_name(group)), REMOVED).column("key").to_pylist())
            rows.append(
                {
                    "keep": share,
                    "removed": len(removed),
                    "precision": len(removed & noise) / len(removed),
                    "recall": len(removed & noise) / len(noise),
                    "scored": computed.count("filter_scores/clean"),
                }
            )
    return {"pairs": pairs, "noise": len(noise), "rows": rows}


def show(numbers: dict[str, Any]) -> str:
    """Return the table."""
    lines = [
        f"{numbers['pairs']:,} pairs of the demo, {numbers['noise']:,} of them with the caption of another pair",
        "  keep  removed  precision  recall  groups scored",
    ]
    for row in numbers["rows"]:
        lines.append(
            f"  {row['keep']:.1f}  {row['removed']:8,}  {row['precision']:9.0%}  {row['recall']:6.0%}  {row['scored']:13}"
        )
    return "\n".join(lines)
