"""Time of a plan with 64 groups and 300,000 shards: when everything is stored, and when one teacher has changed.

Shards are empty files and manifests are short. The time of a plan does not depend on their sizes. The first plan also
hashes the shards. For real shards, this takes the time to read them once.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.store import Manifest

GROUPS, SHARDS, REPEATS = 64, 300_000, 5
LIMIT_SECONDS = 5.0


def measure() -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="planning-"))
    before = os.environ.get("MOBILECLIP2_CACHE")
    os.environ["MOBILECLIP2_CACHE"] = str(folder / "cache")
    try:
        profile = write_profile(folder)
        for number in range(SHARDS):
            place = folder / "shards" / f"{number // 1000:03d}"
            if number % 1000 == 0:
                place.mkdir(parents=True)
            (place / f"{number:08d}.tar").touch()
        pretend(Pipeline(load(profile)))
        first = timed(profile)
        fresh = [timed(profile) for _ in range(REPEATS)]
        values = yaml.safe_load(profile.read_text())
        values["teachers"][0]["model"]["config"]["embed_dim"] = 512
        profile.write_text(yaml.safe_dump(values))
        changed = [timed(profile) for _ in range(REPEATS)]
    finally:
        shutil.rmtree(folder)
        if before is None:
            del os.environ["MOBILECLIP2_CACHE"]
        else:
            os.environ["MOBILECLIP2_CACHE"] = before
    return {"first": first, "fresh": fresh, "changed": changed}


def write_profile(folder: Path) -> Path:
    """Write a profile with two teachers, one captioner and two students over many shards."""
    config = {
        "embed_dim": 256,
        "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 64, "layers": 1, "head_width": 64},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    (folder / "weights").mkdir()
    for name in ("one", "two"):
        (folder / "weights" / f"{name}.safetensors").write_bytes(name.encode())
    train = {"steps": 1000, "batch": 256, "learning_rate": 1e-3}
    values = {
        "name": "planning",
        "store": "store",
        "groups": GROUPS,
        "sources": [{"name": "many", "url": "shards"}],
        "views": {"count": 4},
        "captioners": [{"name": "coca", "model": {"open_clip": "coca_ViT-B-32"}, "captions": 5}],
        "teachers": [
            {"name": n, "logit_scale": 50, "model": {"config": config, "weights": {"path": f"weights/{n}.safetensors"}}}
            for n in ("one", "two")
        ],
        "students": [
            {"name": "s0", "model": {"open_clip": "MobileCLIP2-S0"}, "train": train},
            {"name": "plain", "model": {"open_clip": "MobileCLIP2-S0"}, "data": "raw", "train": train},
        ],
    }
    profile = folder / "profile.yaml"
    profile.write_text(yaml.safe_dump(values))
    return profile


def pretend(pipeline: Pipeline) -> None:
    """Write manifests for every slice, without computing them."""
    for asset in pipeline.graph.values():
        for group in pipeline.groups(asset):
            for part in asset.slices_of(group).values():
                work = pipeline.task_for(asset, part, group)
                assert work is not None
                work.output.write("side.txt", f"{asset.key} {part.name} {group}".encode())
                described = work.output.describe(["side.txt"])
                work.output.commit(
                    Manifest(
                        asset=asset.key,
                        part=part.name,
                        group=group,
                        fingerprint=work.fingerprint,
                        code_version=asset.code_version,
                        declared=part.declared,
                        inputs=work.versions,
                        samples=SHARDS * 100 // GROUPS,
                        skipped=0,
                        skip_reasons={},
                        facts={},
                        files=described,
                    )
                )


def timed(profile: Path) -> float:
    """Return the seconds of ``mobileclip2 plan`` as a whole process."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "pipelines.cli", "plan", "--profile", str(profile)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def show(numbers: dict[str, Any]) -> str:
    lines = [f"mobileclip2 plan as a whole process: {GROUPS} groups, {SHARDS:,} shards, {REPEATS} repeats"]
    for name, what in (("fresh", "nothing to compute"), ("changed", "a teacher has changed")):
        values = numbers[name]
        middle, spread = statistics.median(values), max(values) - min(values)
        verdict = "within" if middle < LIMIT_SECONDS else "ABOVE"
        lines.append(f"  {what:24} median {middle:.2f} s  spread {spread:.2f} s  ({verdict} {LIMIT_SECONDS:.0f} s)")
    lines.append(f"  {'first, with hashing':24} {numbers['first']:.2f} s")
    return "\n".join(lines)
