"""Open one sample of a source, a caption corpus or an evaluation set, and say what to do with an input of another type."""

from __future__ import annotations

import shlex
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mobileclip2.config.evaluation_tasks import TASKS
from mobileclip2.config.filters import Filters
from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.image import decode
from mobileclip2.data.importing.open_rows import open_rows
from mobileclip2.data.tar import RawSample, read_samples, scan_samples
from mobileclip2.data.validate import IMAGE_EXTENSIONS, validate_shard
from mobileclip2.engine.listing import ListedFile, list_files
from mobileclip2.engine.shard import local_copy
from mobileclip2.errors import ShardError, UserError
from mobileclip2.evaluation.sets import CLASSNAMES, NSHARDS, TEMPLATES, TYPE, EvaluationSet
from mobileclip2.store.storage import temporary_files

TRIED = 64
"""number of first samples of a shard; at least one of them must be valid"""
REINFORCED = {"paug.json", "syn.json", "npz", "pth.gz"}
"""members that only reinforced samples have"""
SET_FILES = (CLASSNAMES, TEMPLATES, TYPE, NSHARDS)


@dataclass(frozen=True)
class Opened:
    """An input, and its first sample."""

    field: str
    shards: int
    samples: int
    """samples of the first shard, times the number of shards"""
    shown: str
    """what the first sample holds"""


@dataclass(frozen=True)
class OpenedShards(Opened):
    """A source or a corpus, and its first valid sample."""

    key: str
    caption: str
    width: int
    height: int
    image_bytes: int


@dataclass(frozen=True)
class OpenedSet(Opened):
    """An evaluation set, and the class or the first caption of its first sample."""

    kind: str
    classes: int


def open_shards(
    field: str, files: Sequence[ListedFile], filters: Filters, caption_keys: Sequence[str] = ()
) -> OpenedShards:
    """Open the first shard, and validate its samples until one is valid.

    Args:
        field: name in messages, such as ``source 'mine'``.
        files: all shards, at least one.

    Raises:
        ShardError: the first shard cannot be read, or none of its first :data:`TRIED` samples is valid. The message names
            the command that makes shards of what is there.
    """
    try:
        return _first_sample(field, files, filters, caption_keys)
    except ShardError as error:
        raise ShardError(f"{field}: {error}") from error


def _first_sample(
    field: str, files: Sequence[ListedFile], filters: Filters, caption_keys: Sequence[str]
) -> OpenedShards:
    shard = local_copy(files[0].url)
    seen: list[RawSample] = []
    reasons: Counter[str] = Counter()
    detail = ""
    with shard.open("rb") as file:
        for sample in islice(read_samples(file, files[0].url), TRIED):
            valid, skipped = validate_shard([sample], filters, caption_keys)
            if valid.num_rows:
                (row,) = valid.to_pylist()
                return OpenedShards(
                    field=field,
                    shards=len(files),
                    samples=_count(shard) * len(files),
                    shown=f"'{row['caption'][:48]}', {row['width']} x {row['height']} pixels",
                    key=row["key"],
                    caption=row["caption"],
                    width=row["width"],
                    height=row["height"],
                    image_bytes=len(sample.members[row["image"]]),
                )
            seen.append(RawSample(sample.key, dict.fromkeys(sample.members, b"")))
            for bad in skipped.to_pylist():
                reasons[bad["reason"]] += 1
                detail = detail or f"'{bad['key']}': {bad['detail']}"
    raise ShardError(f"{files[0].url}: {_without_pairs(seen, reasons, detail)}")


def open_evaluation_set(name: str, url: str) -> OpenedSet:
    """Check the text files of an evaluation set, and decode its first image.

    Raises:
        UserError: the folder is no evaluation set or one of another kind, a text file is missing or malformed, or the
            first sample is not usable. The message names the command that makes a set of what is there.
    """
    files = list_files(url, "**/*")
    field = f"evaluation set '{name}'"
    if not files:
        raise ShardError(f"{field}: {url}: no such folder, or it is empty; check the profile")
    expected = TASKS[name].kind if name in TASKS else None
    names = {file.relative for file in files}
    if expected != "association" and not names & set(SET_FILES):
        raise ShardError(f"{field}: {url} is not an evaluation set; {_instead(url, name)}")
    with temporary_files(), tempfile.TemporaryDirectory() as temporary:
        folder = Path(url) if not url.startswith("s3://") else _beginning(files, Path(temporary))
        try:
            return _open_set(field, url, EvaluationSet(name, folder), names)
        except UserError as error:
            message = str(error).replace(str(folder), url).removeprefix(f"{field}: ")
            raise type(error)(f"{field}: {message}") from error


def _open_set(field: str, url: str, set_: EvaluationSet, names: set[str]) -> OpenedSet:
    remedy = f"make one from pictures with: mobileclip2 import PICTURES --as-evaluation -o {shlex.quote(url)}"
    if (
        set_.kind == "classification"
        and TYPE in names
        and "retrieval" in (set_.path / TYPE).read_text(errors="replace")
    ):
        raise UserError(
            f"{url} is a retrieval set ({TYPE}), and '{set_.name}' is the name of a classification set; {remedy}"
        )
    if set_.kind == "retrieval" and CLASSNAMES in names:
        raise UserError(
            f"{url} is a classification set ({CLASSNAMES}), and a retrieval set is expected; {remedy}, "
            f"with a table of captions, or correct {TYPE}"
        )
    if set_.kind == "classification" and (missing := sorted({CLASSNAMES, TEMPLATES} - names)):
        raise UserError(
            f"{url}: {' and '.join(missing)} is missing; a classification set needs class names and prompts; {remedy}"
        )
    set_.check()
    sample = next(iter(set_.samples()))
    try:
        if sample.fault:
            raise sample.fault
        decode(sample.image)
    except BadSample as bad:
        held = f"; a {set_.kind} set needs a picture with {'txt' if set_.kind == 'retrieval' else 'cls'} in each sample"
        raise UserError(f"{set_.shards[0]}: sample '{sample.key}' ({bad}){held}; {remedy}") from bad
    classes = len(set_.classnames) if set_.kind == "classification" else 0
    shown = set_.classnames[sample.target] if classes else next(iter(sample.captions), "")
    count = _count(set_.shards[0]) * len(set_.shards) if set_.kind != "association" else set_.size
    return OpenedSet(field, len(set_.shards), count, shown, set_.kind, classes)


def _beginning(files: Sequence[ListedFile], folder: Path) -> Path:
    """Return a folder with the text files and the first tar of a set in a bucket, and empty files for its other tars."""
    shards = [file for file in files if file.relative.endswith((".tar", ".parquet"))]
    for file in files:
        target = folder / file.relative
        if file.relative in SET_FILES or file in shards:
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.relative in SET_FILES or file == shards[0]:
                target.symlink_to(local_copy(file.url).resolve())
            else:
                target.touch()
    return folder


def _count(shard: Path) -> int:
    """Count the samples of a tar that have an image, from its headers. A damaged end is found by the stage that reads it."""
    count = 0
    with suppress(ShardError), shard.open("rb") as file:
        for sample in scan_samples(file, str(shard)):
            count += any(extension.rpartition(".")[2] in IMAGE_EXTENSIONS for extension in sample.spans)
    return max(1, count)


def _without_pairs(samples: Sequence[RawSample], reasons: Counter[str], detail: str) -> str:
    """Say what a shard without valid samples holds, and what to do."""
    if not samples:
        return "the tar contains no sample; make it again, or exclude it with 'pattern'"
    members = {name for sample in samples for name in sample.members}
    if members >= {"paug.json"} or members & REINFORCED == members:
        return (
            f"reinforced samples ({', '.join(sorted(members & REINFORCED))}) and no image-text pairs; a source needs the "
            "original pictures with captions, or join them by key"
        )
    images = members & set(IMAGE_EXTENSIONS)
    if images and "cls" in members and not members & {"txt", "json"}:
        return (
            "pictures with class numbers (cls) and no captions; name it under 'evaluation', or make captions from a folder "
            "for each class with: mobileclip2 import CLASSES/ --template 'a photo of a {c}.' -o shards/"
        )
    if not images and members & {"txt", "json"}:
        return (
            f"texts ({', '.join(sorted(members))}) and no pictures; download the pictures with img2dataset, or pack those of "
            "a folder with: mobileclip2 import PICTURES/ --captions TABLE -o shards/"
        )
    if not images:
        return (
            f"no pictures, only {', '.join(sorted(members)) or 'members without a usable name'}; make shards with: "
            "mobileclip2 import PICTURES/ --captions TABLE -o shards/"
        )
    if not members & {"txt", "json"}:
        return (
            "pictures without captions (txt or json); make shards with captions with: mobileclip2 import PICTURES/ "
            "--captions TABLE -o shards/"
        )
    counted = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
    return f"none of the first {len(samples)} samples is usable ({counted}); {detail}. Repair the shard, or relax 'filters'"


def _instead(url: str, name: str) -> str:
    """Say what a path holds in place of an evaluation set, and the command that makes one."""
    target = f"--as-evaluation -o evaluation/{shlex.quote(name)}"
    if url.startswith("s3://"):
        return f"copy it to this machine and run: mobileclip2 import FOLDER {target}"
    path = Path(url)
    if next(path.rglob("*.tar"), None):
        return (
            f"it holds tars without {NSHARDS}; name image-text shards under 'sources', and make a set of pictures with: "
            f"mobileclip2 import PICTURES {target}"
        )
    try:
        open_rows(path)
    except UserError as error:
        reason = str(error).removeprefix(f"{url}: ")
        if "no captions" in reason:
            return f"it holds {reason}: mobileclip2 import {shlex.quote(url)} --captions TABLE {target}"
        return reason
    return f"make it with: mobileclip2 import {shlex.quote(url)} {target}"


def open_reinforced(field: str, files: Sequence[ListedFile], teachers: Mapping[str, int | None]) -> Opened:
    """Read the first reinforced sample of the first shard. Images in other shards are not looked up.

    Raises:
        ShardError: the shard cannot be read, its first sample is not reinforced, or its embeddings are not those of
            ``teachers``.
    """
    # they import torch, which no other input needs
    from mobileclip2.data.reinforced_format import parse
    from mobileclip2.data.validate_reinforced import complete

    shard = local_copy(files[0].url)
    with shard.open("rb") as file:
        sample = next(iter(read_samples(file, files[0].url)), None)
    if sample is None:
        raise ShardError(f"{field}: {files[0].url}: the tar contains no sample")
    try:
        if sample.fault:
            raise sample.fault
        found = parse(complete(sample.members, {}), sample.key)
    except (BadSample, ValueError) as bad:
        members = ", ".join(sorted(sample.members))
        raise ShardError(
            f"{field}: {files[0].url}: sample '{sample.key}' ({members}) is not a reinforced sample ({bad}); name image-text "
            "shards under 'sources'"
        ) from bad
    dims = found.image_emb.shape[1]
    stated = sum(dim or 0 for dim in teachers.values())
    if all(teachers.values()) and stated != dims:
        raise ShardError(
            f"{field}: {files[0].url}: embeddings have {dims} dimensions, and the teachers of the profile {stated}"
        )
    shown = f"{len(found.views)} views, {sum(map(len, found.captions.values()))} synthetic captions, {dims} dimensions"
    return Opened(field, len(files), _count(shard) * len(files), shown)
