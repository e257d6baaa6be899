"""The work that each kind of change causes on the demo's data, compared with the possible minimum.

The numbers are exact counts of (asset, group) pairs, not times. The last two columns compare Dagster's stale status
with the plan, before and after the change is computed. GraphQL returns this status after the definitions are reloaded
and the inputs are observed.

Trainings have only a few steps. The counts do not depend on this. Teachers and the first captioner learn from a copy of
the clean set, so that a change of shards or of the fine-tuning set only affects models that learn from it. In the demo
itself they learn from the raw shards, and new shards make new teachers.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine import graph
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from pipelines.observe import report
from pipelines.profiles import PROFILES
from tests.pipelines.stale import unsynced

DEMO = Path(__file__).parents[1] / "demo"
GROUPS = tuple(f"g{number:02d}" for number in range(4))
SET = "emoji-unseen-200"

Values = dict[str, Any]
Pair = tuple[str, str | None]


def grouped(*assets: str, groups: tuple[str, ...] = GROUPS) -> set[Pair]:
    return {(asset, group) for asset in assets for group in groups}


def single(*assets: str) -> set[Pair]:
    return {(asset, None) for asset in assets}


def evaluation(*models: str, of: str = SET) -> set[Pair]:
    return {(f"evaluation/{model}", of) for model in models}


def embeddings(teacher: str, *kinds: str, groups: tuple[str, ...] = GROUPS) -> set[Pair]:
    return grouped(*(f"teacher_embeddings/{teacher}/{kind}" for kind in kinds), groups=groups)


BOTH = ("lite0", "lite2")
LEARNT = single("student/reinforced") | evaluation("reinforced")
PLAIN = single("student/plain") | evaluation("plain")
DOWNSTREAM = grouped("reinforced_dataset") | LEARNT
ALL_KINDS = ("image", "text", "coca_labels")


@dataclass(frozen=True)
class Change:
    """One row: a change of the profile or of its files, and the minimum of pairs that it must compute."""

    name: str
    least: set[Pair]
    values: Callable[[Values], object] = lambda values: None
    files: Callable[[Path], object] = lambda folder: None
    code: str | None = None
    """A stage whose code version is raised."""
    back: bool = False
    """The change is computed and then undone. The pairs that the undo computes count."""


def _one_group(assets: set[str]) -> set[Pair]:
    return grouped(*assets, groups=("g03",))


PER_GROUP = {
    "raw_shards",
    "augmentations",
    "synthetic_captions/coca_labels",
    *(f"teacher_embeddings/{teacher}/{kind}" for teacher in BOTH for kind in ALL_KINDS),
    "reinforced_dataset",
}

CHANGES = (
    Change(
        "a teacher's weights",
        single("teacher/lite2") | evaluation("lite2") | embeddings("lite2", *ALL_KINDS) | DOWNSTREAM,
        lambda values: values["teachers"][1]["locked"]["train"].update(seed=7),
    ),
    Change(
        "a third teacher",
        single("teacher/third") | evaluation("third") | embeddings("third", *ALL_KINDS) | DOWNSTREAM,
        lambda values: values["teachers"].append(
            {
                **copy.deepcopy(values["teachers"][0]),
                "name": "third",
                "locked": {**copy.deepcopy(values["teachers"][0]["locked"]), "embed_dim": 64},
            }
        ),
    ),
    Change("a teacher removed", DOWNSTREAM, lambda values: values["teachers"].pop()),
    Change("the teachers' order", DOWNSTREAM, lambda values: values["teachers"].reverse()),
    Change(
        "a captioner's fine-tuning set",
        single("caption_corpus/labels", "captioner/coca_labels")
        | grouped("synthetic_captions/coca_labels")
        | embeddings("lite0", "coca_labels")
        | embeddings("lite2", "coca_labels")
        | DOWNSTREAM,
        files=lambda folder: shutil.copy(folder / "shards" / "00000.tar", folder / "labels" / "00001.tar"),
    ),
    Change(
        "a captioner added",
        single("captioner/more")
        | grouped("synthetic_captions/more")
        | embeddings("lite0", "more")
        | embeddings("lite2", "more")
        | DOWNSTREAM,
        lambda values: (
            values["captioners"].append({**copy.deepcopy(values["captioners"][-1]), "name": "more", "captions": 1}),
            values["dataset"]["captioners"].append("more"),
        ),
    ),
    Change(
        "views 2 -> 4",
        grouped("augmentations") | embeddings("lite0", "image") | embeddings("lite2", "image") | DOWNSTREAM,
        lambda values: values["views"].update(count=4),
    ),
    Change(
        "captions 2 -> 3",
        grouped("synthetic_captions/coca_labels")
        | embeddings("lite0", "coca_labels")
        | embeddings("lite2", "coca_labels")
        | DOWNSTREAM,
        lambda values: values["captioners"][-1].update(captions=3),
    ),
    Change("a logit scale", LEARNT, lambda values: values["teachers"][0].update(logit_scale=51)),
    Change(
        "a shard added",
        _one_group(PER_GROUP) | LEARNT | PLAIN,
        files=lambda folder: shutil.copy(folder / "shards" / "00002.tar", folder / "shards" / "00015.tar"),
    ),
    Change(
        "a shard replaced",
        _one_group(PER_GROUP) | LEARNT | PLAIN,
        files=lambda folder: shutil.copy(folder / "shards" / "00002.tar", folder / "shards" / "00011.tar"),
    ),
    Change(
        "a shard removed",
        _one_group(PER_GROUP) | LEARNT | PLAIN,
        files=lambda folder: (folder / "shards" / "00011.tar").unlink(),
    ),
    Change(
        "an evaluation set added",
        evaluation("reinforced", "plain", *BOTH, of="retrieval"),
        lambda values: values["evaluation"].append(
            {"name": "retrieval", "url": str(DEMO / "evaluation" / "emoji-retrieval")}
        ),
    ),
    Change(
        "batch size, workers, device, rates, a comment",
        set(),
        lambda values: (
            values.update(batch=7, device="cpu", rates={"student": 1.0}),
            values["students"][0]["train"].update(workers=0, log_every=1, checkpoint_every=3),
        ),
    ),
    Change(
        "changed and changed back",
        set(),
        lambda values: values["students"][1]["train"].update(seed=5),
        back=True,
    ),
    Change("a stage's code, same bytes", grouped("augmentations"), code="augmentations"),
)


def measure() -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="partial-reruns-"))
    try:
        base = folder / "base"
        write_inputs(base)
        compute(Pipeline(load(base / "profile.yaml")))
        rows = []
        for number, change in enumerate(CHANGES):
            place = Path(shutil.copytree(base, folder / str(number)))
            home = folder / f"dagster-{number}"
            home.mkdir()
            with dg.DagsterInstance.local_temp(str(home)) as dagster:
                planned, computed, left, wrong = apply(change, place, dagster)
            rows.append(
                {
                    "change": change.name,
                    "planned": len(planned),
                    "computed": len(computed),
                    "least": len(change.least),
                    "too_many": sorted(map(str, computed - change.least)),
                    "too_few": sorted(map(str, change.least - computed)),
                    "left": left,
                    "dagster_differs": wrong,
                }
            )
            print(f"{number + 1}/{len(CHANGES)} {change.name}", flush=True)
            shutil.rmtree(place)
    finally:
        shutil.rmtree(folder)
    return {"rows": rows}


def write_inputs(folder: Path) -> None:
    """Write the demo's shards and clean set, and its profile with short trainings."""
    shutil.copytree(DEMO / "shards", folder / "shards")
    shutil.copytree(DEMO / "corpus" / "labels", folder / "labels")
    values = yaml.safe_load((PROFILES / "demo.yaml").read_text())
    values = {**values, "store": "store", "sources": [{"name": "emoji", "url": "shards"}]}
    values.pop("ledger", None)
    values["caption_corpora"] = [
        {"name": "labels", "url": "labels"},
        {"name": "pairs", "url": str(DEMO / "corpus" / "labels")},
    ]
    values["views"]["count"] = 2
    values["captioners"][0]["train_on"] = "caption_corpus/pairs"
    values["evaluation"] = [{"name": SET, "url": str(DEMO / "evaluation" / SET)}]
    for captioner in values["captioners"]:
        captioner["train"] = {**captioner["train"], "steps": 4, "warmup": 0}
        captioner.setdefault("generation", {})["max_tokens"] = 6
    for teacher in values["teachers"]:
        teacher["locked"]["train_on"] = ["caption_corpus/pairs"]
        teacher["locked"]["size"] = 48
        teacher["locked"]["train"] = {**teacher["locked"]["train"], "steps": 4, "warmup": 0}
    for student in values["students"]:
        student["evaluate_on"] = []
        student["train"] = {**student["train"], "steps": 2, "batch": 16, "warmup": 0, "workers": 0}
    (folder / "profile.yaml").write_text(yaml.dump(values, Dumper=_Plain, sort_keys=False))


def apply(change: Change, folder: Path, dagster: dg.DagsterInstance) -> tuple[set[Pair], set[Pair], int, list[int]]:
    """Make the change. Return the planned pairs, the computed pairs, and the number of items that are stale afterwards.

    The last value has the number of pairs whose Dagster status differs from the plan, before and after the computation.
    """
    profile = folder / "profile.yaml"
    before = profile.read_text()
    report(Pipeline(load(profile)), dagster)
    values = yaml.safe_load(before)
    change.values(values)
    change.files(folder)
    profile.write_text(f"# edited\n{yaml.dump(values, Dumper=_Plain, sort_keys=False)}")
    if change.back:
        changed = Pipeline(load(profile))
        assert compute(changed)
        report(changed, dagster)
        profile.write_text(before)
    with raised(change.code):
        pipeline = Pipeline(load(profile))
        planned: set[Pair] = set(plan(pipeline).pairs)
        report(pipeline, dagster)
        differs = [len(unsynced(profile, dagster) ^ planned)]
        computed = compute(pipeline)
        report(pipeline, dagster)
        left = plan(pipeline)
        differs.append(len(unsynced(profile, dagster) ^ {(pair.asset, pair.group) for pair in left.pairs}))
        return planned, computed, len(left.items), differs


class _Plain(yaml.SafeDumper):
    """A dumper without anchors, because a change of a shared object would apply in both places."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@contextmanager
def raised(stage: str | None) -> Iterator[None]:
    """Change the code version of a stage inside this context."""
    if stage is None:
        yield
        return
    before = graph.CODE_VERSIONS[stage]
    graph.CODE_VERSIONS[stage] = f"{before} and more"
    try:
        yield
    finally:
        graph.CODE_VERSIONS[stage] = before


def compute(pipeline: Pipeline) -> set[Pair]:
    """Compute the stale pairs and return the pairs that were computed."""
    return {(asset.key, group) for asset, group in pipeline.stale() if pipeline.materialize(asset.key, group).computed}


def show(numbers: dict[str, Any]) -> str:
    lines = [
        f"{'change':46} {'planned':>8} {'computed':>9} {'least':>6} {'':5} {'Dagster differs: before':>26} {'after':>6}"
    ]
    for row in numbers["rows"]:
        exact = not row["too_many"] and not row["too_few"] and not row["left"]
        lines.append(
            f"{row['change']:46} {row['planned']:>8} {row['computed']:>9} {row['least']:>6} "
            f"{'exact' if exact else 'NOT':5} {row['dagster_differs'][0]:>26} {row['dagster_differs'][1]:>6}"
        )
        lines += [f"    computed without need: {pair}" for pair in row["too_many"]]
        lines += [f"    not computed: {pair}" for pair in row["too_few"]]
    return "\n".join(lines)
