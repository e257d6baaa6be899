"""What a filter removes from the demo's pairs. 30 % of them have a wrong caption: the name of something else.

The filter is the demo's teacher ``lite0``, trained on the clean corpus alone. For each share that ``select.keep`` keeps, the
first table shows how many of the removed pairs are wrong (precision) and how many of the wrong ones are removed (recall).
One seed.

The second table shows the zero-shot top-1 of models that train on all pairs, on the pairs that the filter keeps, on as many
pairs chosen at random, and on the pairs without the wrong ones: the demo's plain student, and the demo's teacher ``lite0``,
trained on these pairs alone. Three seeds. As many models train at once as there are cores, each on one thread.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from demo.concepts import caption_kind
from mobileclip2.config.profile import Profile, parse
from mobileclip2.data import sidecar
from mobileclip2.data.selection import removed_name
from mobileclip2.data.tar import TarWriter, read_samples
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.metrics import metrics_of
from mobileclip2.stages.stored_results import stored_results
from pipelines.profiles import PROFILES

SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)
KEPT = 0.7
"""Share of the second table. It is the share of the pairs without the wrong ones."""
PAIRS = {"all": "all", "filtered": "all", "random": "random", "without wrong": "right"}
"""Folder of shards that each row of the second table trains on."""
MODELS = ("student", "teacher")
SEEDS = (0, 1, 2)
LENGTH = {"steps": 600, "warmup": 60}
SET = "emoji-861"
DEMO = Path(__file__).parents[1] / "demo"
STAGES = ("raw_shards", "caption_corpus", "teacher", "filter_scores", "selection", "selected_shards")
"""Stages up to the pairs that the models train on."""


def write_shards(folder: Path) -> tuple[set[str], int]:
    """Copy the demo's shards, once with all pairs, once without the wrong ones, and once without as many random ones.

    Return the keys of the wrong pairs, and the number of all pairs.
    """
    samples = []
    for path in sorted((DEMO / "shards").glob("*.tar")):
        with path.open("rb") as file:
            samples += [(path.name, sample) for sample in read_samples(file, path.name)]
    drawings = {sample.key: json.loads(sample.members["json"]) for _, sample in samples}
    wrong = {key for key, drawing in drawings.items() if caption_kind(drawing["hexcode"], drawing["artist"]) == "wrong"}
    random_keys = set(random.Random(0).sample(sorted(drawings), len(wrong)))
    for kind, without in {"all": set[str](), "right": wrong, "random": random_keys}.items():
        (folder / kind).mkdir(parents=True)
        for name in sorted({name for name, _ in samples}):
            with TarWriter(folder / kind / name) as tar:
                for shard, sample in samples:
                    if shard == name and sample.key not in without:
                        tar.write(sample.key, sample.members)
    return wrong, len(samples)


def profile_of(folder: Path, shards: str, share: float | None, seed: int | None = None) -> Profile:
    """Return the demo with other shards, the filter and a selection if there is a share, and models to train on a seed."""
    demo: dict[str, Any] = yaml.safe_load((PROFILES / "demo.yaml").read_text())
    lite0 = next(each for each in demo["teachers"] if each["name"] == "lite0")
    teachers = [{**lite0, "locked": {**lite0["locked"], "train_on": ["caption_corpus/labels"]}}]
    values: dict[str, Any] = {
        "name": "filtering",
        "store": "store",
        "groups": 4,
        "sources": [{"name": "pairs", "url": shards}],
        "caption_corpora": [
            {**corpus, "url": str(DEMO / "corpus" / corpus["name"])} for corpus in demo["caption_corpora"]
        ],
        "teachers": teachers,
        "dataset": {"teachers": []},  # no reinforcement
    }
    if share:
        values["filtering"] = [{"name": "clean", "model": "teacher/lite0"}]
        values["select"] = {"by": "clean", "keep": share}
    if seed is not None:
        plain = next(each for each in demo["students"] if each["name"] == "plain")
        train = {**plain["train"], **LENGTH, "seed": seed, "workers": 0, "evaluate_every": None}
        values["students"] = [{**plain, "name": "student", "train": train, "evaluate_on": []}]
        locked = {
            **lite0["locked"],
            "train_on": ["selected_shards" if share else "raw_shards"],
            "train": {**lite0["locked"]["train"], "seed": seed},
        }
        teachers.append({**lite0, "name": "teacher", "locked": locked})
        values["evaluation"] = [{"name": SET, "url": str(DEMO / "evaluation" / SET)}]
    return parse(yaml.safe_dump(values, sort_keys=False), origin=folder / "profile.yaml")


def compute(pipeline: Pipeline) -> list[str]:
    """Compute the pairs that models train on. Return the assets that were not stored, once for each group."""
    computed = []
    for key, asset in pipeline.graph.items():
        if asset.stage in STAGES and key != "teacher/teacher":
            for group in pipeline.groups(asset):
                computed += [str(key)] * bool(pipeline.materialize(key, group).computed)
    return computed


def trained(trial: tuple[Path, str, float | None, int, str]) -> float:
    """Train a model on pairs that are computed. Return its top-1."""
    folder, shards, share, seed, model = trial
    pipeline = Pipeline(profile_of(folder, shards, share, seed))
    pipeline.materialize(f"{model}/{model}")
    pipeline.materialize(f"evaluation/{model}", SET)
    (result,) = stored_results(pipeline, model)
    assert result.samples is not None
    return metrics_of(SET, result.samples)["acc1"].of(result.samples)


def measure() -> dict[str, Any]:
    """Score the pairs once, select each share, and train the models."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wrong, pairs = write_shards(folder)
        rows = []
        for share in SHARES:
            pipeline = Pipeline(profile_of(folder, PAIRS["filtered"], share))
            computed = compute(pipeline)
            (selection,) = pipeline.read("selection")
            removed: set[str] = set()
            for group in pipeline.profile.group_names:
                removed |= set(
                    sidecar.read(selection.fetch(removed_name(group)), sidecar.REMOVED).column("key").to_pylist()
                )
            rows.append(
                {
                    "keep": share,
                    "removed": len(removed),
                    "precision": len(removed & wrong) / len(removed),
                    "recall": len(removed & wrong) / len(wrong),
                    "scored": computed.count("filter_scores/clean"),
                }
            )
        return {"pairs": pairs, "wrong": len(wrong), "rows": rows, "top1": accuracies(folder)}


def accuracies(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Return the top-1 of each model by the pairs that it trains on, one number for each seed."""
    shares = {pairs: KEPT if pairs == "filtered" else None for pairs in PAIRS}
    for pairs, shards in PAIRS.items():  # before several processes need the same stages
        compute(Pipeline(profile_of(folder, shards, shares[pairs])))
    kinds = [(model, pairs) for model in MODELS for pairs in PAIRS]
    trials = [(folder, PAIRS[pairs], shares[pairs], seed, model) for model, pairs in kinds for seed in SEEDS]
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a child loads torch
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        values = list(processes.map(trained, trials))
    by_kind = {kind: values[len(SEEDS) * row : len(SEEDS) * (row + 1)] for row, kind in enumerate(kinds)}
    return {model: {pairs: by_kind[model, pairs] for pairs in PAIRS} for model in MODELS}


def show(numbers: dict[str, Any]) -> str:
    """Return the table."""
    lines = [
        f"{numbers['pairs']:,} pairs of the demo, {numbers['wrong']:,} of them with a wrong caption",
        "  keep  removed  precision  recall  groups scored",
    ]
    for row in numbers["rows"]:
        lines.append(
            f"  {row['keep']:.1f}  {row['removed']:8,}  {row['precision']:9.0%}  {row['recall']:6.0%}  {row['scored']:13}"
        )
    lines.append(f"zero-shot top-1 on {SET}, {len(SEEDS)} seeds each; the filter keeps {KEPT:.0%}")
    for model, kinds in numbers["top1"].items():
        for pairs, values in kinds.items():
            each = "  ".join(f"{value:.1%}" for value in values)
            lines.append(f"  {model:8} on {pairs:14} mean {statistics.mean(values):.1%}  ({each})")
    return "\n".join(lines)
