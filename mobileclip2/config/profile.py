"""Profiles: what people write by hand to say which pipeline they want.

A profile names shards, teachers with their logit scales, captioners, views, captions, students and evaluation sets. It is
checked completely before any work starts; every message names the field. Relative paths are relative to the profile's file.
"""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mobileclip2.config.augmentation import Augmentation
from mobileclip2.config.captioner import CoCaConfig, GenerationSettings
from mobileclip2.config.compute import ComputeSettings
from mobileclip2.config.evaluation_tasks import AVERAGES, TASKS
from mobileclip2.config.filters import Filters
from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import ProfileError
from mobileclip2.fingerprint import UNDECLARED
from mobileclip2.names import did_you_mean, listed

MAX_GROUPS = 99
"""Dagster ignores an edge with 100 or more upstream partitions when it decides what is stale."""


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", value) or value in {"image", "text"}:
        raise ValueError(
            f"'{value}' cannot name a part of the graph: use lower-case letters, digits and '_', "
            "and not 'image' or 'text', which name embeddings"
        )
    return value


def _set_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]*", value) or ".." in value:
        raise ValueError(f"'{value}' cannot name an evaluation set: use letters, digits, '-', '_', '.' and '/'")
    return value


Name = Annotated[str, AfterValidator(_name)]
"""names an asset in the graph"""
SetName = Annotated[str, AfterValidator(_set_name)]


def open_clip_names() -> set[str]:
    """Architectures that open_clip knows, read from its files so that torch stays unloaded."""
    spec = importlib.util.find_spec("open_clip")
    assert spec and spec.submodule_search_locations
    return {file.stem for file in (Path(spec.submodule_search_locations[0]) / "model_configs").glob("*.json")}


class _Yaml(yaml.SafeLoader):
    """``1e-3`` is a number, as in YAML 1.2 and as DVC reads it; PyYAML would make it a text."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


RENAMED_KEYS = {"licence": "license"}
"""Old keys of a profile that still work."""


class Settings(BaseModel):
    """Base of everything written by hand: unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _accept_renamed_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for old, new in RENAMED_KEYS.items():
            if old in values and new in cls.model_fields:
                if new in values:
                    raise ValueError(f"'{old}' is the old name of '{new}'; give '{new}' alone")
                warnings.warn(f"the profile key '{old}' is deprecated; write '{new}'", FutureWarning, stacklevel=2)
                values = {(new if key == old else key): value for key, value in values.items()}
        return values


class Source(Settings):
    """A folder of WebDataset tars, local or ``s3://bucket/prefix``."""

    name: Name = "source"
    url: str = Field(json_schema_extra=UNDECLARED)
    pattern: str = "**/*.tar"
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
    """of the images and texts; the model card of an export names it, as it does the others"""


class Weights(Settings):
    """Where pretrained weights come from, pinned by the hash of the file.

    Exactly one of ``package`` (a file inside an installed Python package), ``path`` (local or ``s3://``) and ``tag`` (a
    pretrained tag of open_clip).
    """

    package: str | None = None
    file: str | None = None
    path: str | None = Field(None, json_schema_extra=UNDECLARED)
    tag: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.package, self.path, self.tag)) != 1:
            raise ValueError("name exactly one of 'package' (with 'file'), 'path' and 'tag'")
        if (self.package is None) != (self.file is None):
            raise ValueError("'package' and 'file' go together: the file inside the installed package")
        if self.package and not self.sha256:
            raise ValueError("weights from a package are a third party's upload: pin them with 'sha256'")
        return self


class Model(Settings):
    """An architecture: an open_clip name, an ``hf-hub:`` name, or an open_clip configuration written out."""

    open_clip: str | None = None
    config: dict[str, Any] | None = None
    weights: Weights | None = None

    @model_validator(mode="after")
    def known(self) -> Self:
        """Check that the model is named in exactly one way, and that open_clip knows the name."""
        if (self.open_clip is None) == (self.config is None):
            raise ValueError("name exactly one of 'open_clip' and 'config'")
        if self.open_clip and not self.open_clip.startswith("hf-hub:") and self.open_clip not in open_clip_names():
            raise ValueError(
                f"open_clip has no model '{self.open_clip}'{did_you_mean(self.open_clip, open_clip_names())}; "
                "see open_clip.list_models(), or give an 'hf-hub:' name"
            )
        if self.weights and (self.open_clip or "").startswith("hf-hub:"):
            raise ValueError("an 'hf-hub:' model comes with its weights; leave out 'weights'")
        return self

    @property
    def pretrained(self) -> bool:
        """Whether it comes with weights."""
        return self.weights is not None or (self.open_clip or "").startswith("hf-hub:")


class Locked(Settings):
    """A locked-image teacher (LiT): frozen pretrained towers under two trained projections."""

    trunk: str
    """timm name of the image tower"""
    size: int = 96
    trunk_weights: Weights
    text_weights: Weights
    """safetensors of a transformers text encoder, its config and tokenizer beside it"""
    embed_dim: int = 256
    context: int = 32
    train_on: tuple[str, ...] = ("raw_shards",)
    train: TrainSettings

    @model_validator(mode="after")
    def _text_tower_is_a_folder(self) -> Self:
        if self.text_weights.tag or (self.text_weights.path or "").startswith("s3://"):
            raise ValueError("'text_weights' are a local file or one of a package, with config and tokenizer beside it")
        return self


class Teacher(Settings):
    """One teacher of the ensemble: a model with weights, or one trained here."""

    name: Name
    model: Model | None = None
    locked: Locked | None = None
    logit_scale: float | None = Field(None, gt=0, le=1000)
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
    """of the weights"""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.model is None) == (self.locked is None):
            raise ValueError(f"teacher '{self.name}': name exactly one of 'model' and 'locked'")
        if self.model and not self.model.pretrained:
            raise ValueError(
                f"teacher '{self.name}': 'model.weights' is missing; a teacher without weights teaches noise"
            )
        return self


class Captioner(Settings):
    """A CoCa: open_clip's by name, a small one written out, or an earlier captioner fine-tuned."""

    name: Name
    base: str | None = None
    """name of the captioner whose weights this one starts from"""
    model: Model | None = None
    small: CoCaConfig | None = None
    trunk_weights: Weights | None = None
    """weights of the frozen trunk of a small one"""
    train_on: str | None = None
    """``raw_shards`` or ``caption_corpus/<name>``"""
    train: TrainSettings | None = None
    captions: int = Field(1, ge=1, le=99)
    generation: GenerationSettings = GenerationSettings()
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
    """of the weights"""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.base, self.model, self.small)) != 1:
            raise ValueError(f"captioner '{self.name}': name exactly one of 'base', 'model' and 'small'")
        if (self.train is None) != (self.train_on is None):
            raise ValueError(f"captioner '{self.name}': 'train' and 'train_on' go together")
        if self.small and not self.train:
            raise ValueError(f"captioner '{self.name}': a small captioner starts from nothing, it needs 'train'")
        return self


class Corpus(Settings):
    """A small clean image-caption set for fine-tuning."""

    name: Name
    url: str = Field(json_schema_extra=UNDECLARED)
    pattern: str = "**/*.tar"
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
    """of the images and texts"""


class Views(Settings):
    """The stored views of each image."""

    count: int = Field(2, ge=1, le=99)
    seed: int = 0
    augmentation: Augmentation = Augmentation()


class Dataset(Settings):
    """What the reinforced dataset joins. By default every teacher and every captioner of the profile, in their order."""

    teachers: tuple[str, ...] | None = None
    captioners: tuple[str, ...] | None = None
    storage: Literal["pth.gz", "npz"] = "pth.gz"
    images: bool = True


class Loss(Settings):
    """MobileCLIP2's training loss: ``(1 - distill) * CLIP + distill * distillation`` on the chosen caption batches."""

    distill: float = Field(1.0, ge=0, le=1)
    captions: Literal["both", "real", "synthetic"] = "both"
    captioners: tuple[str, ...] | None = None
    """whose captions to draw from; by default all that the dataset holds"""
    logit_scales: dict[str, Annotated[float, Field(gt=0)] | None] = {}
    """of these teachers, instead of their own; null leaves a teacher out"""


class Pick(Settings):
    """Of the points of a curve: the best on one set among those that lose little on the others."""

    best: str
    """evaluation set whose main metric is to be as high as it can"""
    of: tuple[str, ...] = Field(min_length=1)
    """evaluation sets on which little may be lost"""
    within: float = Field(0.01, ge=0, le=1)
    """share by which the main metric of each of them may lie below the start's"""

    @property
    def sets(self) -> tuple[str, ...]:
        """All sets that the rule looks at, each once."""
        return tuple(dict.fromkeys((self.best, *self.of)))


class WiseFT(Settings):
    """Weights between those that a student started from and those it ended with (WiSE-FT, Wortsman et al. 2022)."""

    to: str
    """name of an earlier student that was trained from given weights, or from another student's"""
    weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = tuple(tenth / 10 for tenth in range(11))
    """points of the curve: 0 is the start, 1 the end"""
    pick: Pick

    @model_validator(mode="after")
    def _whole_curve(self) -> Self:
        if sorted(set(self.weights)) != list(self.weights) or not {0.0, 1.0} <= set(self.weights):
            raise ValueError(f"between.weights: {list(self.weights)} must rise from 0, the start, to 1, the end")
        return self


class Student(Settings):
    """One student. ``data: raw`` is the plain-CLIP baseline from the same shards.

    Without ``train`` it is a model with given weights as it is, to be evaluated and started from.
    """

    name: Name
    base: str | None = None
    """name of an earlier student whose weights this one starts from"""
    model: Model | None = None
    between: WiseFT | None = None
    data: Literal["reinforced", "raw"] = "reinforced"
    loss: Loss = Loss()
    train: TrainSettings | None = None
    evaluate_on: tuple[str, ...] = ()
    """evaluation sets for the curves during training"""
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
    """under which the trained student is passed on"""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.base, self.model, self.between)) != 1:
            raise ValueError(f"student '{self.name}': name exactly one of 'base', 'model' and 'between'")
        if self.train is None and not self.between and not (self.model and self.model.pretrained):
            raise ValueError(f"student '{self.name}': 'train' is missing; only a model with weights can stay as it is")
        if self.between or not self.train:
            fields = type(self).model_fields
            idle = [
                name for name in ("data", "evaluate_on", "loss", "train") if getattr(self, name) != fields[name].default
            ]
            if idle:
                raise ValueError(f"student '{self.name}': nothing is trained; leave out {', '.join(idle)}")
        if self.data == "raw" and self.loss != Loss():
            raise ValueError(f"student '{self.name}': raw data has nothing to distil; leave out 'loss'")
        return self

    @property
    def training(self) -> TrainSettings:
        """``train`` of one that is trained."""
        assert self.train is not None
        return self.train


class Row(Settings):
    """One line of a study: what is different about its students."""

    name: Name
    data: Literal["reinforced", "raw"] = "reinforced"
    loss: Loss = Loss()


class Study(Settings):
    """Students that differ in one thing, each trained with every seed: an ablation, or a search for logit scales.

    The search is the paper's: each teacher alone at each of its scales (Faghri et al. 2025).
    """

    name: Name
    student: str
    """whose model and training settings all of them have"""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    evaluate_on: tuple[str, ...] = Field(min_length=1)
    rows: tuple[Row, ...] = ()
    scales: dict[str, tuple[Annotated[float, Field(ge=0.01, le=1000)], ...]] = {}
    """values to try by teacher"""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.rows) == bool(self.scales):
            raise ValueError(f"study '{self.name}': give 'rows' or 'scales'")
        for field, values in {"seeds": self.seeds, "rows": [row.name for row in self.rows], **self.scales}.items():
            if len(set(values)) != len(values):
                raise ValueError(f"study '{self.name}': {field} must differ")
        return self

    def lines(self, profile: Profile) -> list[Row]:
        """Return the rows, or one for each teacher and scale."""
        if self.rows:
            return list(self.rows)
        base, teachers = profile.student(self.student), profile.dataset_teachers
        found = []
        for teacher, scales in self.scales.items():
            for scale in scales:
                alone = {other: scale if other == teacher else None for other in teachers}
                loss = base.loss.model_copy(update={"logit_scales": alone})
                found.append(Row(name=scale_name(teacher, scale), data=base.data, loss=loss))
        return found

    def trials(self, profile: Profile) -> dict[str, Student]:
        """Return the student of every row and seed, by the name of both."""
        base = profile.student(self.student)
        found = {}
        for row in self.lines(profile):
            for seed in self.seeds:
                train = base.training.model_copy(update={"seed": seed})
                changed = {"data": row.data, "loss": row.loss, "train": train, "evaluate_on": self.evaluate_on}
                found[trial_name(row.name, seed)] = base.model_copy(update=changed)
        return found


def scale_name(teacher: str, scale: float) -> str:
    """Name the row of a teacher at a logit scale."""
    return f"{teacher}_{scale:g}".replace(".", "_")


def trial_name(row: str, seed: int) -> str:
    """Name the trial of a row and seed."""
    return f"{row}-seed{seed}"


class EvaluationSource(Settings):
    """An evaluation set in the published WebDataset layout; the name is its key in DataComp's results."""

    name: SetName
    url: str = Field(json_schema_extra=UNDECLARED)


class Gate(Settings):
    """When an evaluation counts as worse than its baseline: see :mod:`mobileclip2.evaluation.gate`."""

    baseline: str | None = Field(None, json_schema_extra=UNDECLARED)
    """a student or teacher of the profile, a file or folder of results, or a git revision; without one nothing is judged"""
    tolerance: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {"main_metric": 0.005}, min_length=1, json_schema_extra=UNDECLARED
    )
    """by metric, the share by which it may fall; other metrics are not judged"""
    sets: tuple[str, ...] | None = Field(None, json_schema_extra=UNDECLARED)
    """evaluation sets and averages that are judged; by default all"""
    confidence: float = Field(0.95, gt=0.5, lt=1, json_schema_extra=UNDECLARED)
    """that a failure is no noise, over everything that is judged together"""


class Profile(Settings):
    """One pipeline, whole."""

    name: Name
    store: str = Field(json_schema_extra=UNDECLARED)
    groups: int = Field(16, ge=1)
    sources: tuple[Source, ...] = Field(min_length=1)
    filters: Filters = Filters()
    max_bad_share: float = Field(0.1, ge=0, le=1, json_schema_extra=UNDECLARED)
    views: Views = Views()
    caption_corpora: tuple[Corpus, ...] = ()
    captioners: tuple[Captioner, ...] = ()
    teachers: tuple[Teacher, ...] = ()
    dataset: Dataset = Dataset()
    students: tuple[Student, ...] = ()
    studies: tuple[Study, ...] = ()
    evaluation: tuple[EvaluationSource, ...] = ()
    gate: Gate = Field(Gate(), json_schema_extra=UNDECLARED)
    device: str = Field("auto", json_schema_extra=UNDECLARED)
    batch: int = Field(64, ge=1, json_schema_extra=UNDECLARED)
    """images at once through a teacher or captioner"""
    rates: dict[str, float] = Field({}, json_schema_extra=UNDECLARED)
    """samples a second by stage or asset, for the cost of a plan and the size of chunks while nothing was measured"""
    ledger: str | None = Field(None, json_schema_extra=UNDECLARED)
    """folder of ``dvc.yaml`` in a git repository; without it no ledger is kept"""
    compute: ComputeSettings = Field(ComputeSettings(), json_schema_extra=UNDECLARED)
    folder: str = Field("", json_schema_extra=UNDECLARED, exclude=True)
    """where the profile's file lies; filled in on loading"""
    file: str = Field("", json_schema_extra=UNDECLARED, exclude=True)
    """the profile's path; filled in on loading"""
    text: str = Field("", json_schema_extra=UNDECLARED, exclude=True)
    """the profile as it was written; filled in on loading"""

    def teacher(self, name: str) -> Teacher:
        """Return the teacher of that name."""
        return next(teacher for teacher in self.teachers if teacher.name == name)

    def captioner(self, name: str) -> Captioner:
        """Return the captioner of that name."""
        return next(captioner for captioner in self.captioners if captioner.name == name)

    def student(self, name: str) -> Student:
        """Return the student of that name."""
        return next(student for student in self.students if student.name == name)

    def logit_scales(self, student: Student) -> list[float | None]:
        """By the order of the dataset's teachers; None for one that the student does not imitate."""
        own = {teacher.name: teacher.logit_scale for teacher in self.teachers} | student.loss.logit_scales
        return [own[name] for name in self.dataset_teachers]

    def study(self, name: str) -> Study:
        """Return the study of that name."""
        return next(study for study in self.studies if study.name == name)

    @property
    def dataset_teachers(self) -> tuple[str, ...]:
        """Return the teachers of the reinforced dataset, in the order of their embeddings."""
        return tuple(t.name for t in self.teachers) if self.dataset.teachers is None else self.dataset.teachers

    @property
    def dataset_captioners(self) -> tuple[str, ...]:
        """Return the captioners of the reinforced dataset, in their order."""
        return tuple(c.name for c in self.captioners) if self.dataset.captioners is None else self.dataset.captioners

    @property
    def group_names(self) -> list[str]:
        """Return the names of the groups, ``g00`` and so on."""
        return [f"g{number:02d}" for number in range(self.groups)]

    def locate(self, url: str) -> str:
        """Return a URL of the profile as an absolute path, or unchanged if it is ``s3://``."""
        return url if "://" in url else os.path.normpath(Path(self.folder) / url)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.groups > MAX_GROUPS:
            raise ValueError(
                f"groups: {self.groups} is more than {MAX_GROUPS}; Dagster ignores an edge with 100 or more partitions when "
                "it decides what is stale, so put more shards into each group"
            )
        named: dict[str, Sequence[_Named]] = {
            "sources": self.sources,
            "caption_corpora": self.caption_corpora,
            "captioners": self.captioners,
            "teachers": self.teachers,
            "students": self.students,
            "studies": self.studies,
            "evaluation": self.evaluation,
            "students and teachers (they share the evaluation's names)": (*self.students, *self.teachers),
        }
        for field, things in named.items():
            names = [thing.name for thing in things]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{field}: two are named '{name}'; names must differ")
        self._check_references()
        return self

    def _check_between(self, field: str, between: WiseFT) -> None:
        end = self.student(between.to)
        if not end.train or not (end.base or (end.model and end.model.pretrained)):
            raise ValueError(
                f"{field}.to: '{end.name}' was not trained from given weights, so nothing lies before it; "
                "name a student with 'train' and a 'base' or 'model.weights'"
            )
        for name in between.pick.sets:
            if name in TASKS and not TASKS[name].main:
                raise ValueError(f"{field}.pick: '{name}' has no main metric to judge by; name another set")

    def _check_references(self) -> None:
        def known(field: str, wanted: tuple[str, ...] | list[str], have: tuple[str, ...] | list[str]) -> None:
            for name in wanted:
                if name not in have:
                    near = did_you_mean(name, have)
                    raise ValueError(f"{field}: there is no '{name}'{near or f'; the profile has {listed(have)}'}")

        captioners = [captioner.name for captioner in self.captioners]
        corpora = [f"caption_corpus/{corpus.name}" for corpus in self.caption_corpora]
        known("gate.sets", self.gate.sets or (), [*(source.name for source in self.evaluation), *AVERAGES])
        known("dataset.teachers", self.dataset_teachers, [teacher.name for teacher in self.teachers])
        known("dataset.captioners", self.dataset_captioners, captioners)
        for position, captioner in enumerate(self.captioners):
            if captioner.base:
                known(f"captioners.{captioner.name}.base", (captioner.base,), captioners[:position])
            if captioner.train_on:
                known(f"captioners.{captioner.name}.train_on", (captioner.train_on,), ["raw_shards", *corpora])
        for teacher in self.teachers:
            if teacher.locked:
                known(
                    f"teachers.{teacher.name}.locked.train_on",
                    teacher.locked.train_on,
                    ["raw_shards", *corpora],
                )
        students = [student.name for student in self.students]
        for position, student in enumerate(self.students):
            field = f"students.{student.name}"
            if student.base:
                known(f"{field}.base", (student.base,), students[:position])
            if student.between:
                known(f"{field}.between.to", (student.between.to,), students[:position])
                known(f"{field}.between.pick", student.between.pick.sets, [source.name for source in self.evaluation])
                self._check_between(f"{field}.between", student.between)
            self._check_student(field, student, known)
        for study in self.studies:
            field = f"studies.{study.name}"
            known(f"{field}.student", (study.student,), students)
            if not self.student(study.student).train:
                raise ValueError(f"{field}.student: '{study.student}' is not trained; name a student with 'train'")
            known(f"{field}.scales", tuple(study.scales), self.dataset_teachers)
            for name, student in study.trials(self).items():
                self._check_student(f"{field}.{name}", student, known)

    def _check_student(self, field: str, student: Student, known: Callable[..., None]) -> None:
        known(f"{field}.evaluate_on", student.evaluate_on, [source.name for source in self.evaluation])
        if student.loss.captioners is not None:
            known(f"{field}.loss.captioners", student.loss.captioners, self.dataset_captioners)
        known(f"{field}.loss.logit_scales", tuple(student.loss.logit_scales), self.dataset_teachers)
        if student.train and student.data == "reinforced":
            if not self.dataset_teachers:
                raise ValueError(f"{field}: a reinforced student needs at least one teacher in the dataset")
            if not self.dataset_captioners and student.loss.captions != "real":
                raise ValueError(f"{field}.loss.captions: the dataset has no captioner; use 'real'")
            if student.loss.distill and not any(self.logit_scales(student)):
                raise ValueError(
                    f"{field}.loss.logit_scales: every teacher is left out; leave one in, or set 'distill' to 0"
                )
            for name in self.dataset_teachers:
                if self.teacher(name).logit_scale is None and name not in student.loss.logit_scales:
                    raise ValueError(
                        f"teachers.{name}.logit_scale is missing; student '{student.name}' distils from it. "
                        "The paper's optima are 50 to 90"
                    )


def parse(text: str, *, origin: Path) -> Profile:
    """Parse a profile from YAML text.

    Raises:
        ProfileError: naming the file and each offending field.
    """
    try:
        values = _Yaml(text).get_single_data()
    except yaml.YAMLError as error:
        raise ProfileError(f"{origin}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ProfileError(f"{origin}: a profile is a mapping of fields; see docs/profiles.md")
    try:
        origin = origin.resolve()
        return Profile.model_validate({**values, "folder": str(origin.parent), "file": str(origin), "text": text})
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, problem['loc'])) or 'profile'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        ]
        raise ProfileError(f"{origin}: the profile is not usable; nothing was run\n" + "\n".join(lines)) from None


def load(path: str | Path) -> Profile:
    """Read a profile from a YAML file.

    Raises:
        ProfileError: when the file is missing or a field is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except OSError as error:
        raise ProfileError(f"{path}: cannot read the profile: {error.strerror}") from error
    return parse(text, origin=path)
