"""Evaluation sets in the WebDataset layout of clip-benchmark and DataComp.

::

    classnames.txt                          one class per line        (classification)
    zeroshot_classification_templates.txt   one "a photo of a {c}" per line (classification)
    dataset_type.txt                        "retrieval"
    test/nshards.txt                        number of tars
    test/<n>.tar                            image with .cls (class index) or .txt (one caption per line)

Some sets of the suite have other layouts. Sets with ``fields`` have an .npy file of integers for each image. A set of
kind ``faces`` has several questions and no .cls, and each line of its text files begins with ``<question>:``. A set of
kind ``association`` is a folder of Parquet files from the Hugging Face hub, with one question per row.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Formatter
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mobileclip2.config.evaluation_tasks import TASKS, Kind
from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.caption_text import (
    MAX_PARSED_CHARS,
    check_content,
    is_literal,
    is_placeholder,
    is_visible,
    normalized_name,
)
from mobileclip2.data.tar import RawSample, read_samples, scan_samples
from mobileclip2.errors import ShardError, UserError
from mobileclip2.store.storage import file_sha256

IMAGES = ("webp", "png", "jpg", "jpeg")
CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
TYPE = "dataset_type.txt"
NSHARDS = "test/nshards.txt"
QUESTIONS = ("race", "gender", "age", "toxic")
"""Questions about each face."""
ASSOCIATION_COLUMNS = ("candidates", "candidate_images", "cue", "associations")
MAX_TEXT_BYTES = 4 << 20
"""maximum size of a text file of a set"""
STATED: tuple[Kind, ...] = ("classification", "retrieval")
"""Kinds of custom sets. Only sets of the suite have other kinds."""


@dataclass(frozen=True)
class Sample:
    """A test image with its class index or captions, or with a ``fault`` if the sample is not usable.

    A candidate of an association set has the cue as its caption and the target 1 if it belongs to the cue. Its key is
    ``<question>/<number>``.
    """

    key: str
    image: bytes = b""
    target: int = -1
    captions: tuple[str, ...] = ()
    fields: tuple[int, ...] = ()
    fault: BadSample | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """An evaluation set in a local folder. ``name`` is its key in the results.

    Properties raise ``UserError`` for a text file that is missing or malformed, and ``ShardError`` for a tar.
    """

    name: str
    path: Path

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the integers in the .npy file of each image."""
        return TASKS[self.name].fields if self.name in TASKS else ()

    @cached_property
    def kind(self) -> Kind:
        """Return the kind of the set from its key, its ``dataset_type.txt`` or its files."""
        if self.name in TASKS:
            return TASKS[self.name].kind
        if (self.path / TYPE).exists():
            stated = "".join(self._lines(TYPE)).lower()
            for kind in STATED:
                if stated == kind:
                    return kind
            raise UserError(f"{self.path / TYPE}: '{stated}' cannot be evaluated; write {' or '.join(STATED)}")
        if (self.path / CLASSNAMES).exists():
            return "classification"
        first = next(self._raw_samples(), None)
        return "retrieval" if first and "txt" in first.members else "classification"

    @cached_property
    def classnames(self) -> list[str]:
        """Return the class names in the order of their indices."""
        names = self._lines(CLASSNAMES)
        if self.name in TASKS:
            return names  # published sets have equal names; ImageNet has two "missile"
        earlier: dict[str, tuple[int, str]] = {}
        for line, name in enumerate(names, 1):
            if is_placeholder(name) or is_literal(name):
                raise UserError(
                    f"{self.path / CLASSNAMES}, line {line}: '{name[:80]}' is not a name but a value that a program printed; "
                    "write the name of the class in words"
                )
            first, other = earlier.setdefault(normalized_name(name), (line, name))
            if first < line:
                raise UserError(
                    f"{self.path / CLASSNAMES}, line {line}: '{name}' is also the name in line {first}, '{other}'; a "
                    "tokenizer such as CLIP's ignores case, spaces and Unicode forms, so give each class a name of its own"
                )
        return names

    @cached_property
    def templates(self) -> list[str]:
        """Prompts with ``{c}`` as the placeholder of the class name."""
        templates = self._lines(TEMPLATES)
        for line, template in enumerate(templates, 1):
            kind = "Python code" if _is_code(template) else "an item of a list" if _ITEM.match(template) else None
            if kind:
                raise UserError(
                    f"{self.path / TEMPLATES}, line {line}: '{template[:80]}' is {kind}; write the text alone, such as "
                    "a photo of a {c}."
                )
            if not _has_placeholder(template):
                raise UserError(
                    f"{self.path / TEMPLATES}, line {line}: '{template}' has no placeholder for the class name; write "
                    "{c}, and double other braces"
                )
        return templates

    @cached_property
    def questions(self) -> dict[str, tuple[list[str], list[str]]]:
        """Class names and templates of a set of faces, by question."""
        questions: dict[str, tuple[list[str], list[str]]] = {question: ([], []) for question in QUESTIONS}
        for column, (name, lines) in enumerate(((CLASSNAMES, self.classnames), (TEMPLATES, self.templates))):
            for number, line in enumerate(lines, 1):
                question, colon, text = line.partition(":")
                if question not in questions or not colon:
                    expected = ", ".join(f"'{question}:'" for question in QUESTIONS)
                    raise UserError(
                        f"{self.path / name}, line {number}: '{line}' does not begin with one of {expected}"
                    )
                questions[question][column].append(text)
            for question, texts in questions.items():
                if not texts[column]:
                    raise UserError(f"{self.path / name}: no line begins with '{question}:'; download the set again")
        return questions

    @cached_property
    def shards(self) -> list[Path]:
        """Return the paths of the tars, or of the Parquet files of an association set, in order."""
        if self.name in TASKS and self.kind == "association":
            files = sorted(self.path.rglob("*.parquet"))
            if not files:
                raise ShardError(
                    f"evaluation set '{self.name}': no Parquet file in {self.path}; download the set again"
                )
            return files
        stated = "".join(self._lines(NSHARDS))
        if not re.fullmatch("[0-9]{1,6}", stated) or int(stated) < 1:
            raise UserError(f"{self.path / NSHARDS}: '{stated}' is not a number of shards")
        shards = [self.path / "test" / f"{number}.tar" for number in range(int(stated))]
        for shard in shards:
            if not shard.is_file():
                raise ShardError(f"{shard}: missing; {NSHARDS} says {stated} shards. Download the set again")
        extra = sorted(set((self.path / "test").glob("*.tar")) - set(shards))
        if extra:
            raise ShardError(
                f"{extra[0]}: not among the {stated} shards of {NSHARDS}; correct the number, or move the file to another folder"
            )
        return shards

    @cached_property
    def digest(self) -> str:
        """Return a sha256 over the content of all files of the set, independent of its folder."""
        names = [CLASSNAMES, TEMPLATES] if self.kind in {"classification", "faces"} else []
        paths = [*(self.path / name for name in names), *self.shards]
        content = "".join(f"{path.relative_to(self.path)} {file_sha256(path)}\n" for path in paths)
        return hashlib.sha256(f"{self.kind}\n{content}".encode()).hexdigest()

    @cached_property
    def size(self) -> int:
        """Number of test samples from the headers of the tars. A damaged tar counts as empty."""
        if self.kind == "association":
            return sum(len(question["candidates"]) for question in self._questions("candidates"))
        return sum(map(_count_samples, self.shards))

    def check(self) -> None:
        """Check the files of the set except the samples.

        Raises:
            UserError: a file is missing or malformed.
        """
        if self.kind == "classification":
            _ = self.classnames, self.templates
        if self.kind == "faces":
            _ = self.questions
        _ = self.shards

    def samples(self) -> Iterator[Sample]:
        """Yield all test samples in the order of the tars, without decoding images.

        Raises:
            ShardError: a tar is damaged, or the set is empty.
        """
        empty = True
        for sample in self._candidates() if self.kind == "association" else map(self._sample, self._raw_samples()):
            empty = False
            yield sample
        if empty:
            raise ShardError(f"{self.path / 'test'}: the tars contain no sample")

    def _raw_samples(self) -> Iterator[RawSample]:
        for shard in self.shards:
            with shard.open("rb") as file:
                yield from read_samples(file, str(shard))

    def _candidates(self) -> Iterator[Sample]:
        for row, question in enumerate(self._questions(*ASSOCIATION_COLUMNS)):
            names, images, cue, right = (question[name] for name in ASSOCIATION_COLUMNS)
            for number, (name, image) in enumerate(zip(names, images, strict=True)):
                yield Sample(f"{row}/{number}", image.get("bytes") or b"", int(name in right), (cue,))

    def _questions(self, *columns: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of an association set.

        Raises:
            ShardError: a file cannot be read, lacks a column, or has an incomplete row.
        """
        for shard in self.shards:
            row = 0
            try:
                # a pre-buffered file stays in memory until its last row
                with pq.ParquetFile(shard, pre_buffer=False) as file:
                    for batch in file.iter_batches(16, columns=list(columns)):
                        for values in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                            row, question = row + 1, dict(zip(columns, values, strict=True))
                            _check_question(question)
                            yield question
            # a name or a text that is not UTF-8 is no error of pyarrow
            except (pa.ArrowException, KeyError, OSError, UnicodeDecodeError) as error:
                raise ShardError(
                    f"{shard}: not a Parquet file of an association set ({error}); download it again"
                ) from error
            except ValueError as error:
                raise ShardError(f"{shard}, row {row}: {error}; download it again") from error

    def _sample(self, raw: RawSample) -> Sample:
        try:
            if raw.fault:
                raise raw.fault
            image = next((raw.members[name] for name in IMAGES if name in raw.members), None)
            if image is None:
                found = ", ".join(sorted(raw.members))
                raise BadSample("no-image", f"it has {found}, but no {', '.join(IMAGES)}")
            fields = _fields(raw, self.fields)
            if self.kind == "faces":
                return Sample(raw.key, image, fields=fields)
            if self.kind == "classification":
                return Sample(raw.key, image, target=_target(raw, len(self.classnames)), fields=fields)
            return Sample(raw.key, image, captions=_captions(raw))
        except BadSample as fault:
            return Sample(raw.key, fault=fault)

    def _lines(self, name: str) -> list[str]:
        path = self.path / name
        try:
            if path.stat().st_size > MAX_TEXT_BYTES:
                raise UserError(f"{path}: larger than {MAX_TEXT_BYTES:,} bytes; it must hold one short text per line")
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except OSError as error:
            raise UserError(
                f"evaluation set '{self.name}': {path} cannot be read ({error.strerror}); the folder must contain "
                f"{NSHARDS}, and {CLASSNAMES} with {TEMPLATES} or {TYPE} with 'retrieval'"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 at byte {error.start:,}; save it as UTF-8") from error
        if not lines:
            raise UserError(f"{path}: empty")
        for number, line in enumerate(lines, 1):
            if not is_visible(line):
                raise UserError(f"{path}, line {number}: blank; remove the line or fill it in")
            if "\ufeff" in line or any(unicodedata.category(each) == "Cc" for each in line):
                raise UserError(
                    f"{path}, line {number}: a byte order mark or control character within the text; delete it"
                )
        return lines


_CODE = re.compile(
    r"""lambda\b|def |return\b|import |[\[(\s]*[frbu]{0,2}(["']).*\1[\])},;\s]*$|[\[\]()]+,?$|\w+ *\+?=>? *[frbu]{0,2}["'\[(]""",
    re.IGNORECASE,
)
"""lines of a program that need not be complete statements"""


_ITEM = re.compile(r"\s*([-*+\u2022]|\d+[.)])\s")
"""start of an item of a list"""


def _is_code(line: str) -> bool:
    """Return whether a line is part of a program: it has the placeholder within a string."""
    if _CODE.match(line):
        return True
    if len(line) > MAX_PARSED_CHARS:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes that strings do not have
            statements = ast.parse(line).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    # without a value, it is text such as: sign: "{c}"
    statements = [each for each in statements if not isinstance(each, ast.AnnAssign) or each.value]
    nodes = (node for statement in statements for node in ast.walk(statement))
    return any("{c}" in ast.unparse(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr))


def _has_placeholder(template: str) -> bool:
    """Return whether the only fields of a format string are plain ``{c}``, and there is one."""
    try:
        fields = [field[1:] for field in Formatter().parse(template) if field[1] is not None]
    except ValueError:
        return False
    return bool(fields) and all(field == ("c", "", None) for field in fields)


def _check_question(question: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if a row of an association set is incomplete."""
    for name, value in question.items():
        values = [value] if name == "cue" else value
        fits = _is_image if name == "candidate_images" else lambda each: isinstance(each, str)
        if not isinstance(values, list) or not values or not all(map(fits, values)):
            raise ValueError(f"'{name}' lacks a value, or holds one of another type")
    images = question.get("candidate_images")
    if images is not None and len(images) != len(question["candidates"]):
        raise ValueError("'candidates' and 'candidate_images' differ in length")
    if set(question.get("associations", question["candidates"])).isdisjoint(question["candidates"]):
        raise ValueError("no association is among the candidates")


def _is_image(value: object) -> bool:
    # an image without bytes is a bad sample
    return isinstance(value, dict) and isinstance(value.get("bytes"), bytes | None)


def _target(raw: RawSample, classes: int) -> int:
    if "cls" not in raw.members:
        raise BadSample("no-class", f"it has {', '.join(sorted(raw.members))} but no cls")
    text = raw.members["cls"].decode(errors="replace").strip()
    if not re.fullmatch("[0-9]{1,18}", text):
        raise BadSample("bad-class", f"cls holds '{text[:40]}', not a class index")
    if int(text) >= classes:
        raise BadSample("class-out-of-range", f"class index {int(text)}, but {CLASSNAMES} has {classes} lines")
    return int(text)


_NPY_FAULTS = (ArithmeticError, EOFError, MemoryError, RecursionError, SyntaxError, TokenError, TypeError, ValueError)
"""what numpy raises for a damaged file"""


def _fields(raw: RawSample, names: tuple[str, ...]) -> tuple[int, ...]:
    if not names:
        return ()
    if "npy" not in raw.members:
        raise BadSample("no-fields", f"it has {', '.join(sorted(raw.members))} but no npy with {', '.join(names)}")
    try:
        values = np.load(io.BytesIO(raw.members["npy"]), allow_pickle=False)
    except _NPY_FAULTS as error:
        raise BadSample("bad-fields", f"npy cannot be read: {str(error)[:200]}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise BadSample("bad-fields", f"npy holds no numbers but {str(getattr(values, 'dtype', 'an archive'))[:200]}")
    if values.shape == (len(names),):
        with np.errstate(invalid="ignore"):  # of numbers outside of int64, which differ from the result
            integers = values.astype(np.int64)
        if np.array_equal(integers, values):
            return tuple(integers.tolist())
    raise BadSample("bad-fields", f"npy has the shape {values.shape}, not {len(names)} integers of 64 bits")


def _captions(raw: RawSample) -> tuple[str, ...]:
    """Split a text into captions. A blank line between others is a caption, as in clip-benchmark."""
    if "txt" not in raw.members:
        raise BadSample("no-caption", f"it has {', '.join(sorted(raw.members))} but no txt")
    try:
        captions = tuple(raw.members["txt"].decode().splitlines())
    except UnicodeDecodeError as error:
        raise BadSample("caption-not-utf8", f"txt is not UTF-8 at byte {error.start}") from error
    if not any(map(is_visible, captions)):
        raise BadSample("no-caption", "txt is blank, or no character is visible")
    for line, caption in enumerate(captions, 1):
        check_content(caption, f"line {line} of txt")
    return captions


def _count_samples(shard: Path) -> int:
    try:
        with shard.open("rb") as file:
            return sum(1 for _ in scan_samples(file, str(shard)))
    except (OSError, ShardError):
        return 0
