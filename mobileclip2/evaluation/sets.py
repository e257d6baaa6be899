"""Evaluation sets in the WebDataset layout in which clip-benchmark and DataComp publish theirs.

::

    classnames.txt                          one class a line          (classification)
    zeroshot_classification_templates.txt   "a photo of a {c}" a line (classification)
    dataset_type.txt                        "retrieval"
    test/nshards.txt                        number of tars
    test/<n>.tar                            image with .cls (class index) or .txt (one caption a line)
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from mobileclip2.errors import ShardError, UserError
from mobileclip2.shards.bad_sample import BadSample
from mobileclip2.shards.tar import RawSample, read_samples
from mobileclip2.store.output import file_sha256

IMAGES = ("webp", "png", "jpg", "jpeg")
CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
TYPE = "dataset_type.txt"
NSHARDS = "test/nshards.txt"

Kind = Literal["classification", "retrieval"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Sample:
    """One test image with its class index or its captions; with a ``fault`` it has neither."""

    key: str
    image: bytes = b""
    target: int = -1
    captions: tuple[str, ...] = ()
    fault: BadSample | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """One evaluation set in a local folder; ``name`` is its key in the results.

    Every property raises UserError for a file that is missing or malformed, ShardError for a tar.
    """

    name: str
    path: Path

    @cached_property
    def kind(self) -> Kind:
        if (self.path / TYPE).exists():
            stated = "".join(self._lines(TYPE)).lower()
            for kind in KINDS:
                if stated == kind:
                    return kind
            raise UserError(f"{self.path / TYPE}: '{stated}' cannot be evaluated; write {' or '.join(KINDS)}")
        if (self.path / CLASSNAMES).exists():
            return "classification"
        return "retrieval" if "txt" in self._first_members() else "classification"

    @cached_property
    def classnames(self) -> list[str]:
        return self._lines(CLASSNAMES)

    @cached_property
    def templates(self) -> list[str]:
        """Prompts with ``{c}`` in the class name's place."""
        templates = self._lines(TEMPLATES)
        for line, template in enumerate(templates, 1):
            try:
                differ = template.format(c="a") != template.format(c="b")
            except (IndexError, KeyError, ValueError, AttributeError):
                differ = False
            if not differ:
                raise UserError(
                    f"{self.path / TEMPLATES}, line {line}: '{template}' has no place for the class name; write "
                    "it as {c}, and other braces doubled"
                )
        return templates

    @cached_property
    def shards(self) -> list[Path]:
        stated = "".join(self._lines(NSHARDS))
        if not stated.isdecimal() or int(stated) < 1:
            raise UserError(f"{self.path / NSHARDS}: '{stated}' is not a number of shards")
        shards = [self.path / "test" / f"{number}.tar" for number in range(int(stated))]
        for shard in shards:
            if not shard.is_file():
                raise ShardError(f"{shard}: missing; {NSHARDS} counts {stated} shards. Fetch the set again")
        extra = sorted(set((self.path / "test").glob("*.tar")) - set(shards))
        if extra:
            raise ShardError(
                f"{extra[0]}: not among the {stated} shards that {NSHARDS} counts; remove it or correct the count"
            )
        return shards

    @cached_property
    def digest(self) -> str:
        """sha256 over the content of every file that the measurement reads, wherever the set lies."""
        names = [CLASSNAMES, TEMPLATES] if self.kind == "classification" else []
        paths = [*(self.path / name for name in names), *self.shards]
        content = "".join(f"{path.relative_to(self.path)} {file_sha256(path)}\n" for path in paths)
        return hashlib.sha256(f"{self.kind}\n{content}".encode()).hexdigest()

    @cached_property
    def size(self) -> int:
        """Number of test images, from the tars' headers alone; a damaged tar counts as empty."""
        return sum(_count_images(shard) for shard in self.shards)

    def check(self) -> None:
        """Looks at everything but the samples.

        Raises:
            UserError: the first thing that is wrong.
        """
        if self.kind == "classification":
            _ = self.classnames, self.templates
        _ = self.shards

    def samples(self) -> Iterator[Sample]:
        """All test samples in the order of the tars; images are not decoded.

        Raises:
            ShardError: a tar is damaged, or all of them hold no sample.
        """
        empty = True
        for shard in self.shards:
            with shard.open("rb") as file:
                for raw in read_samples(file, str(shard)):
                    empty = False
                    yield self._sample(raw)
        if empty:
            raise ShardError(f"{self.path / 'test'}: the tars hold no sample")

    def _sample(self, raw: RawSample) -> Sample:
        try:
            if raw.fault:
                raise raw.fault
            image = next((raw.members[name] for name in IMAGES if name in raw.members), None)
            if image is None:
                found = ", ".join(sorted(raw.members))
                raise BadSample("no-image", f"it has {found} and none of {', '.join(IMAGES)}")
            if self.kind == "classification":
                return Sample(raw.key, image, target=_target(raw, len(self.classnames)))
            return Sample(raw.key, image, captions=_captions(raw))
        except BadSample as fault:
            return Sample(raw.key, fault=fault)

    def _first_members(self) -> dict[str, bytes]:
        for shard in self.shards:
            with shard.open("rb") as file:
                for raw in read_samples(file, str(shard)):
                    return raw.members
        return {}

    def _lines(self, name: str) -> list[str]:
        path = self.path / name
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except OSError as error:
            raise UserError(
                f"evaluation set '{self.name}': {path} cannot be read ({error.strerror}); the folder must have "
                f"the published layout: {CLASSNAMES} and {TEMPLATES}, or {TYPE} with 'retrieval', and {NSHARDS}"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 at byte {error.start:,}; save it as UTF-8") from error
        if not lines:
            raise UserError(f"{path}: empty")
        if "" in lines:
            raise UserError(f"{path}, line {lines.index('') + 1}: blank; remove the line or fill it in")
        return lines


def _target(raw: RawSample, classes: int) -> int:
    if "cls" not in raw.members:
        raise BadSample("no-class", f"it has {', '.join(sorted(raw.members))} and no cls")
    text = raw.members["cls"].decode(errors="replace").strip()
    if not text.isdecimal():
        raise BadSample("bad-class", f"cls holds '{text[:40]}', not a class index")
    if int(text) >= classes:
        raise BadSample("class-out-of-range", f"class index {int(text)}, but {CLASSNAMES} has {classes} lines")
    return int(text)


def _captions(raw: RawSample) -> tuple[str, ...]:
    """A blank line between others is a caption to clip-benchmark, and so in every published number."""
    if "txt" not in raw.members:
        raise BadSample("no-caption", f"it has {', '.join(sorted(raw.members))} and no txt")
    try:
        captions = tuple(raw.members["txt"].decode().splitlines())
    except UnicodeDecodeError as error:
        raise BadSample("caption-not-utf8", f"txt is not UTF-8 at byte {error.start}") from error
    if not any(caption.strip() for caption in captions):
        raise BadSample("no-caption", "txt is blank")
    return captions


def _count_images(shard: Path) -> int:
    try:
        with tarfile.open(shard, "r:") as tar:
            return sum(Path(member.name).suffix.lower().lstrip(".") in IMAGES for member in tar)
    except tarfile.TarError:
        return 0
