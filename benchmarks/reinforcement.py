"""The gain of reinforcement on the demo's data: the paper's claim at the demo's size.

Each student is trained with three seeds and equal steps. The metric is zero-shot top-1 on emoji-861:

- ``reinforced``: captions of the fine-tuned captioner,
- ``pretrained_captions``: the same with captions of the captioner that was only pretrained,
- ``plain``: CLIP on the raw pairs with weak augmentation, as the paper's baseline,
- ``plain_strong``: the same with the augmentation of the stored views,
- ``plain_corpus``: ``plain`` on the raw pairs and the clean corpus that teachers and captioner see.

It also counts the captions that contain the name of the drawn concept: those of the raw pairs and of both captioners.

The students train longer than the demo's, until the plain ones stop improving. The rest comes from the demo's own
store, so that finished stages of a demo run are reused. Evaluations during training show after how many samples the
reinforced student reaches the plain student's final accuracy. The difference between two kinds is that of their mean
accuracies over seeds. Its interval is a bootstrap over the test images, which all students share. As many students
train at once as there are cores, each on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from benchmarks._reinforcement_bars import bars
from mobileclip2.config.profile import Profile, parse
from mobileclip2.data.tar import read_samples
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.bootstrap import draws, interval
from mobileclip2.evaluation.metrics import metrics_of
from mobileclip2.progress import Step
from mobileclip2.report.sheets import rows, training_records
from mobileclip2.stages.stored_results import stored_results
from pipelines.profiles import PROFILES

DEMO = Path(__file__).parents[1] / "demo"
SEEDS = (0, 1, 2)
VIEWS = 8
"""Stored views per image, more than in the demo.

An image is seen about fifty times, and the plain student gets a new view each time.
"""

LENGTH = {"steps": 1000, "warmup": 100, "evaluate_every": 50}
SET = "emoji-861"
KINDS = ("reinforced", "pretrained_captions", "plain", "plain_strong", "plain_corpus")
CONFIDENCE = 0.95


def profile() -> Profile:
    """Return the demo with both captioners in the dataset and three students of each kind."""
    values: dict[str, Any] = yaml.safe_load((PROFILES / "demo.yaml").read_text())
    values["views"] = {**values["views"], "count": VIEWS}
    fine_tuned, pretrained = values["captioners"][-1], values["captioners"][0]
    pretrained = {**pretrained, "captions": fine_tuned["captions"], "generation": fine_tuned["generation"]}
    values["captioners"] = [pretrained, *values["captioners"][1:]]
    values["dataset"]["captioners"] = [pretrained["name"], fine_tuned["name"]]
    by_name = {student["name"]: student for student in values["students"]}
    students = []
    for seed in SEEDS:
        for kind in KINDS:
            is_plain = kind.startswith("plain")
            student = by_name["plain" if is_plain else "reinforced"]
            train = {**student["train"], **LENGTH, "seed": seed, "workers": 0}
            changed = {**student, "name": f"{kind}_{seed}", "train": train}
            if kind == "plain_strong":
                changed["augmentation"] = "views"
            if kind == "plain_corpus":
                changed["corpora"] = [corpus["name"] for corpus in values["caption_corpora"]]
            if not is_plain:
                chosen = pretrained if kind == "pretrained_captions" else fine_tuned
                changed["loss"] = {**student.get("loss", {}), "captioners": [chosen["name"]]}
            students.append(changed)
    values["evaluation"] = [each for each in values["evaluation"] if each["name"] == SET]
    return parse(yaml.safe_dump({**values, "students": students}, sort_keys=False), origin=PROFILES / "demo.yaml")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--read", type=Path, help="show the numbers of an earlier run with --json, and measure nothing")
    parser.add_argument("--picture", type=Path, help="also draw the numbers, as SVG")


def measure(read: Path | None, picture: Path | None) -> dict[str, Any]:
    """Train the students that are not stored. A second call only reads."""
    numbers = json.loads(read.read_text()) if read else trained()
    if picture:
        picture.write_text(bars(numbers))
    return numbers


def trained() -> dict[str, Any]:
    """Train the students that are not stored yet, and return the numbers of all."""
    pipeline = Pipeline(profile())
    students = [key for key in pipeline.graph if key.startswith("student/")]
    for key in pipeline.graph:
        if key not in students and not key.startswith("evaluation/"):
            for group in pipeline.groups(pipeline.graph[key]):
                pipeline.materialize(key, group, _Lines(f"{key} {group or ''}"))
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a child loads torch
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        list(processes.map(train, students))
    pipeline.forget()
    curves = {f"{kind}_{seed}": curve(pipeline, f"{kind}_{seed}") for kind in KINDS for seed in SEEDS}
    for kind in KINDS:
        for seed in SEEDS:
            pipeline.materialize(f"evaluation/{kind}_{seed}", SET)
    final = {kind: [curves[f"{kind}_{seed}"][-1][1] for seed in SEEDS] for kind in KINDS}
    target = statistics.mean(final["plain"])
    reached = [samples_to(curves[f"reinforced_{seed}"], target) for seed in SEEDS]
    total = curves["plain_0"][-1][0]
    return {
        "set": SET,
        "samples": total,
        "captions_with_name": captions_with_name(pipeline),
        "top1": final,
        "mean": {kind: statistics.mean(values) for kind, values in final.items()},
        "spread": {kind: max(values) - min(values) for kind, values in final.items()},
        "difference": differences(pipeline),
        "samples_to_plain": reached,
        "share_of_samples_to_plain": [samples / total if samples else None for samples in reached],
    }


def captions_with_name(pipeline: Pipeline) -> dict[str, float]:
    """Return the share of the captions that contain the name of the drawn concept, by source: ``raw`` or a captioner.

    Whole words are compared, without case and punctuation, because a captioner's tokenizer changes both.
    """
    names: dict[str, str] = {}
    for path in sorted((DEMO / "shards").glob("*.tar")):
        with path.open("rb") as file:
            names |= {
                sample.key: words(json.loads(sample.members["json"])["label"])
                for sample in read_samples(file, path.name)
            }
    captioners = tuple(captioner.name for captioner in pipeline.profile.captioners)
    found: dict[str, list[bool]] = {}
    for group in pipeline.profile.group_names:
        for row in rows(pipeline, group, captioners=captioners):
            for source, caption in [("raw", row.caption), *row.synthetic]:
                found.setdefault(source, []).append(names[row.key] in words(caption))
    return {source: statistics.mean(values) for source, values in found.items()}


def words(text: str) -> str:
    """Return the words in lower case between spaces: ``" woman s hat "`` for "Woman’s hat" and for "woman 's hat"."""
    return " ".join(["", *re.findall(r"[^\W_]+", text.lower()), ""])


def differences(pipeline: Pipeline) -> dict[str, list[float]]:
    """Return the accuracy of ``reinforced`` minus that of each other kind: the mean, and the ends of its interval."""
    tables = [
        result.samples
        for kind in KINDS
        for seed in SEEDS
        for result in stored_results(pipeline, f"{kind}_{seed}")
        if result.samples is not None
    ]
    metric = metrics_of(SET, tables[0])["acc1"]
    kinds = draws(metric, tables).reshape(len(KINDS), len(SEEDS), -1).mean(1)
    starts = range(0, len(tables), len(SEEDS))
    means = [statistics.mean(metric.of(table) for table in tables[start : start + len(SEEDS)]) for start in starts]
    return {
        kind: [means[0] - means[row], *interval(kinds[0] - kinds[row], CONFIDENCE)]
        for row, kind in enumerate(KINDS)
        if row
    }


def train(key: str) -> None:
    Pipeline(profile()).materialize(key, progress=_Lines(key))


def curve(pipeline: Pipeline, student: str) -> list[tuple[int, float]]:
    """Return (samples seen, top-1) of every evaluation of a student's training."""
    batch = pipeline.profile.student(student).training.batch
    name = f"{SET}/acc1"
    return [(r["step"] * batch, r[name]) for r in training_records(pipeline, f"student/{student}") if name in r]


def samples_to(points: list[tuple[int, float]], target: float) -> int | None:
    """Return the samples at the first evaluation that is at least ``target``."""
    return next((samples for samples, value in points if value >= target), None)


def show(numbers: dict[str, Any]) -> str:
    lines = [f"zero-shot top-1 on {numbers['set']} after {numbers['samples']:,} samples, {len(SEEDS)} seeds each"]
    for kind in KINDS:
        values = "  ".join(f"{value:.1%}" for value in numbers["top1"][kind])
        lines.append(f"  {kind:20} mean {numbers['mean'][kind]:.1%}  spread {numbers['spread'][kind]:.1%}  ({values})")
    for kind, points in numbers["difference"].items():
        mean, low, high = (f"{100 * value:+.1f}" for value in points)
        lines.append(f"  reinforced - {kind:20} {mean} points ({CONFIDENCE:.0%}: {low} to {high})")
    named = ", ".join(f"{source} {share:.0%}" for source, share in numbers["captions_with_name"].items())
    lines.append(f"  captions that contain the name of what is drawn: {named}")
    shares = ", ".join("never" if share is None else f"{share:.2f}" for share in numbers["share_of_samples_to_plain"])
    lines.append(f"  share of the samples after which reinforced reaches plain's final mean, by seed: {shares}")
    return "\n".join(lines)


class _Lines:
    """Print a line of progress every 100 steps."""

    def __init__(self, asset: str) -> None:
        self.asset = asset

    def __call__(self, step: Step) -> None:
        if step.unit == "steps" and (step.done % 100 == 0 or step.done == step.total):
            print(f"{self.asset}: {step.done}/{step.total} {step.unit}", flush=True)
