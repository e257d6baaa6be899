"""Profiles: YAML files that configure a pipeline.

A profile lists shards, views, captioners, teachers with their logit scales, students and evaluation sets. It is validated
completely before any work starts. Every error names the field. Relative paths are relative to the profile's file.
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

from mobileclip2.config.augmentation import RELEASED_RENDERING, Augmentation, Rendering
from mobileclip2.config.captioner import CoCaConfig, GenerationSettings
from mobileclip2.config.compute import ComputeSettings
from mobileclip2.config.evaluation_tasks import AVERAGES, TASKS
from mobileclip2.config.filters import Filters
from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import ProfileError
from mobileclip2.fingerprint import UNDECLARED
from mobileclip2.names import did_you_mean, listed

MAX_GROUPS = 99
"""maximum number of partitions; Dagster ignores edges with 100 or more upstream partitions when it computes staleness"""


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", value) or value in {"image", "text"}:
        raise ValueError(
            f"'{value}' is not a valid name: use lower-case letters, digits and '_'. "
            "'image' and 'text' are reserved for embeddings"
        )
    return value


def _set_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]*", value) or ".." in value:
        raise ValueError(
            f"'{value}' is not a valid name of an evaluation set: use letters, digits, '-', '_', '.' and '/'"
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
"""name of an asset in the graph"""
SetName = Annotated[str, AfterValidator(_set_name)]


def open_clip_names() -> set[str]:
    """Return the architecture names of open_clip. They are read from its files, so that torch is not imported."""
    spec = importlib.util.find_spec("open_clip")
    assert spec and spec.submodule_search_locations
    return {file.stem for file in (Path(spec.submodule_search_locations[0]) / "model_configs").glob("*.json")}


class _Yaml(yaml.SafeLoader):
    """A YAML loader that parses ``1e-3`` as a number, as YAML 1.2 and DVC do. PyYAML parses it as a string."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


RENAMED_KEYS = {"licence": "license"}
"""new key of each deprecated profile key"""


class Settings(BaseModel):
    """Base class of all sections. Unknown fields are errors."""

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
    """A local folder or ``s3://bucket/prefix`` of WebDataset tars."""

    name: Name = "source"
    url: str = Field(json_schema_extra=UNDECLARED)
    pattern: str = "**/*.tar"
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
    """license of the images and texts; the model card of an export names every license"""


class Weights(Settings):
    """Origin of pretrained weights, pinned by the hash of the file.

    Set exactly one of ``package`` (a file in an installed Python package), ``path`` (local or ``s3://``) and ``tag`` (a
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
            raise ValueError("give 'package' and 'file' together; 'file' is a path inside the installed package")
        if self.package and not self.sha256:
            raise ValueError("weights from a package are a third party's upload: pin them with 'sha256'")
        return self


class Model(Settings):
    """An architecture: an open_clip name, an ``hf-hub:`` name, or an inline open_clip configuration."""

    open_clip: str | None = None
    config: dict[str, Any] | None = None
    weights: Weights | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.open_clip is None) == (self.config is None):
            raise ValueError("name exactly one of 'open_clip' and 'config'")
        if self.open_clip and not self.open_clip.startswith("hf-hub:") and self.open_clip not in open_clip_names():
            raise ValueError(
                f"open_clip has no model '{self.open_clip}'{did_you_mean(self.open_clip, open_clip_names())}; "
                "see open_clip.list_models(), or give an 'hf-hub:' name"
            )
        if self.weights and (self.open_clip or "").startswith("hf-hub:"):
            raise ValueError("an 'hf-hub:' model includes its weights; remove 'weights'")
        return self

    @property
    def pretrained(self) -> bool:
        """True if the model has pretrained weights."""
        return self.weights is not None or (self.open_clip or "").startswith("hf-hub:")


class Locked(Settings):
    """A locked-image teacher (LiT): frozen pretrained towers with two trained projections."""

    trunk: str
    """timm name of the image tower"""
    size: int = 96
    trunk_weights: Weights
    text_weights: Weights
    """safetensors file of a transformers text encoder, with config and tokenizer in the same folder"""
    embed_dim: int = 256
    context: int = 32
    train_on: tuple[str, ...] = ("raw_shards",)
    train: TrainSettings

    @model_validator(mode="after")
    def _text_tower_is_a_folder(self) -> Self:
        if self.text_weights.tag or (self.text_weights.path or "").startswith("s3://"):
            raise ValueError(
                "'text_weights' must be a local file or a file of a package, with config and tokenizer in its folder"
            )
        return self


class Teacher(Settings):
    """A teacher of the ensemble: a pretrained model, or a locked-image model that the pipeline trains."""

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
            raise ValueError(f"teacher '{self.name}': 'model.weights' is missing; a teacher needs pretrained weights")
        return self


class Captioner(Settings):
    """A CoCa captioner: an open_clip model, a small inline model, or a fine-tuned earlier captioner."""

    name: Name
    base: str | None = None
    """name of an earlier captioner that provides the initial weights"""
    model: Model | None = None
    small: CoCaConfig | None = None
    trunk_weights: Weights | None = None
    """weights of the frozen trunk of a small captioner"""
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
            raise ValueError(f"captioner '{self.name}': give 'train' and 'train_on' together")
        if self.small and not self.train:
            raise ValueError(
                f"captioner '{self.name}': 'train' is missing; a small captioner has no pretrained weights"
            )
        return self


class Corpus(Settings):
    """A small, clean image-caption dataset for fine-tuning."""

    name: Name
    url: str = Field(json_schema_extra=UNDECLARED)
    pattern: str = "**/*.tar"
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
    """of the images and texts"""


class Views(Settings):
    """Number, seed and augmentation of the stored views of each image."""

    count: int = Field(2, ge=1, le=99)
    seed: int = 0
    augmentation: Augmentation = Augmentation()


class Dataset(Settings):
    """Contents of the reinforced dataset. By default, all teachers and captioners of the profile in their order."""

    teachers: tuple[str, ...] | None = None
    captioners: tuple[str, ...] | None = None
    storage: Literal["pth.gz", "npz"] = "pth.gz"
    """member with the embeddings; both hold bf16 numbers, and ``npz`` stores each in four bytes"""
    images: bool = True


class Loss(Settings):
    """MobileCLIP2's training loss: ``(1 - distill) * CLIP + distill * distillation`` on the chosen caption batches."""

    distill: float = Field(1.0, ge=0, le=1)
    captions: Literal["both", "real", "synthetic"] = "both"
    captioners: tuple[str, ...] | None = None
    """captioners whose captions are sampled; by default, all captioners of the dataset"""
    logit_scales: dict[str, Annotated[float, Field(gt=0)] | None] = {}
    """logit scale of each named teacher, which overrides the teacher's own; null excludes the teacher"""


class Pick(Settings):
    """Rule that selects a point of a WiSE-FT curve: best on one set, with a bounded loss on other sets."""

    best: str
    """evaluation set whose main metric is maximized"""
    of: tuple[str, ...] = Field(min_length=1)
    """evaluation sets whose loss is bounded"""
    within: float = Field(0.01, ge=0, le=1)
    """maximum loss of the main metric on each of these sets, as a share of the value at the start"""

    @property
    def sets(self) -> tuple[str, ...]:
        """All sets of the rule, without duplicates."""
        return tuple(dict.fromkeys((self.best, *self.of)))


class WiseFT(Settings):
    """Interpolation between the initial and the final weights of a student (WiSE-FT, Wortsman et al. 2022)."""

    to: str
    """name of an earlier student that was trained from pretrained weights or from another student"""
    weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = tuple(tenth / 10 for tenth in range(11))
    """points of the curve: 0 is the start and 1 is the end"""
    pick: Pick

    @model_validator(mode="after")
    def _has_both_ends(self) -> Self:
        if sorted(set(self.weights)) != list(self.weights) or not {0.0, 1.0} <= set(self.weights):
            raise ValueError(f"between.weights: {list(self.weights)} must rise from 0, the start, to 1, the end")
        return self


class Student(Settings):
    """A student. ``data: raw`` is the plain CLIP baseline on the same shards.

    A student without ``train`` is a pretrained model. It is evaluated, and other students can start from it.
    """

    name: Name
    base: str | None = None
    """name of an earlier student that provides the initial weights"""
    model: Model | None = None
    between: WiseFT | None = None
    data: Literal["reinforced", "raw"] = "reinforced"
    loss: Loss = Loss()
    render: Rendering = RELEASED_RENDERING
    train: TrainSettings | None = None
    evaluate_on: tuple[str, ...] = ()
    """evaluation sets for evaluations during training"""
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
    """license of the trained student"""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.base, self.model, self.between)) != 1:
            raise ValueError(f"student '{self.name}': name exactly one of 'base', 'model' and 'between'")
        if self.train is None and not self.between and not (self.model and self.model.pretrained):
            raise ValueError(f"student '{self.name}': 'train' is missing; only a model with weights can go without it")
        if self.between or not self.train:
            fields = type(self).model_fields
            unused = [
                name
                for name in ("data", "evaluate_on", "loss", "render", "train")
                if getattr(self, name) != fields[name].default
            ]
            if unused:
                raise ValueError(f"student '{self.name}' is not trained; remove {', '.join(unused)}")
        if self.data == "raw" and self.loss != Loss():
            raise ValueError(f"student '{self.name}': 'loss' needs 'data: reinforced'; remove 'loss' or change 'data'")
        return self

    @property
    def training(self) -> TrainSettings:
        """``train`` of a student that is trained."""
        assert self.train is not None
        return self.train


class Row(Settings):
    """A row of a study: data and loss of its students."""

    name: Name
    data: Literal["reinforced", "raw"] = "reinforced"
    loss: Loss = Loss()


class Study(Settings):
    """An ablation or a search for logit scales. Every row is trained with every seed.

    The search trains a student with each teacher alone at each of its scales (Faghri et al. 2025).
    """

    name: Name
    student: str
    """name of the student that provides model and training settings"""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    evaluate_on: tuple[str, ...] = Field(min_length=1)
    rows: tuple[Row, ...] = ()
    scales: dict[str, tuple[Annotated[float, Field(ge=0.01, le=1000)], ...]] = {}
    """logit scales to try for each teacher"""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.rows) == bool(self.scales):
            raise ValueError(f"study '{self.name}': give 'rows' or 'scales'")
        for field, values in {"seeds": self.seeds, "rows": [row.name for row in self.rows], **self.scales}.items():
            if len(set(values)) != len(values):
                raise ValueError(f"study '{self.name}': {field} must be unique")
        return self

    def lines(self, profile: Profile) -> list[Row]:
        """Return the rows, or one row for each teacher and scale."""
        if self.rows:
            return list(self.rows)
        base, teachers = profile.student(self.student), profile.dataset_teachers
        rows = []
        for teacher, scales in self.scales.items():
            for scale in scales:
                alone = {other: scale if other == teacher else None for other in teachers}
                loss = base.loss.model_copy(update={"logit_scales": alone})
                rows.append(Row(name=scale_name(teacher, scale), data=base.data, loss=loss))
        return rows

    def trials(self, profile: Profile) -> dict[str, Student]:
        """Return the student of every row and seed by its trial name."""
        base = profile.student(self.student)
        trials = {}
        for row in self.lines(profile):
            for seed in self.seeds:
                train = base.training.model_copy(update={"seed": seed})
                changed = {"data": row.data, "loss": row.loss, "train": train, "evaluate_on": self.evaluate_on}
                trials[trial_name(row.name, seed)] = base.model_copy(update=changed)
        return trials


def scale_name(teacher: str, scale: float) -> str:
    """Return the row name of a teacher and logit scale."""
    return f"{teacher}_{scale:g}".replace(".", "_")


def trial_name(row: str, seed: int) -> str:
    """Return the trial name of a row and seed."""
    return f"{row}-seed{seed}"


class EvaluationSource(Settings):
    """An evaluation set in the published WebDataset layout. ``name`` is its key in DataComp's results."""

    name: SetName
    url: str = Field(json_schema_extra=UNDECLARED)


class Gate(Settings):
    """Settings of the quality gate: see :mod:`mobileclip2.evaluation.gate`."""

    baseline: str | None = Field(None, json_schema_extra=UNDECLARED)
    """a student or teacher of the profile, a file or folder of results, or a git revision; None disables the gate"""
    tolerance: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {"main_metric": 0.005}, min_length=1, json_schema_extra=UNDECLARED
    )
    """maximum relative drop of each metric; other metrics are not compared"""
    sets: tuple[str, ...] | None = Field(None, json_schema_extra=UNDECLARED)
    """evaluation sets and averages to compare; by default, all"""
    confidence: float = Field(0.95, gt=0.5, lt=1, json_schema_extra=UNDECLARED)
    """confidence level of a failure, over all comparisons together"""


class Profile(Settings):
    """A complete pipeline."""

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
    """batch size of teachers and captioners"""
    rates: dict[str, float] = Field({}, json_schema_extra=UNDECLARED)
    """samples per second by stage or asset; they set the cost of a plan and the chunk size until rates are measured"""
    ledger: str | None = Field(None, json_schema_extra=UNDECLARED)
    """folder of ``dvc.yaml`` in a git repository; None disables the ledger"""
    compute: ComputeSettings = Field(ComputeSettings(), json_schema_extra=UNDECLARED)
    folder: str = Field("", json_schema_extra=UNDECLARED, exclude=True)
    """folder of the profile's file, set on loading"""
    file: str = Field("", json_schema_extra=UNDECLARED, exclude=True)
    """path of the profile's file, set on loading"""
    text: str = Field("", json_schema_extra=UNDECLARED, exclude=True)
    """text of the profile's file, set on loading"""

    def teacher(self, name: str) -> Teacher:
        """Return the teacher with this name."""
        return next(teacher for teacher in self.teachers if teacher.name == name)

    def captioner(self, name: str) -> Captioner:
        """Return the captioner with this name."""
        return next(captioner for captioner in self.captioners if captioner.name == name)

    def student(self, name: str) -> Student:
        """Return the student with this name."""
        return next(student for student in self.students if student.name == name)

    def logit_scales(self, student: Student) -> list[float | None]:
        """Return a logit scale for each teacher of the dataset in order, or None if the student excludes it."""
        own = {teacher.name: teacher.logit_scale for teacher in self.teachers} | student.loss.logit_scales
        return [own[name] for name in self.dataset_teachers]

    def study(self, name: str) -> Study:
        """Return the study with this name."""
        return next(study for study in self.studies if study.name == name)

    @property
    def dataset_teachers(self) -> tuple[str, ...]:
        """Names of the reinforced dataset's teachers, in the order of their embeddings."""
        return tuple(t.name for t in self.teachers) if self.dataset.teachers is None else self.dataset.teachers

    @property
    def dataset_captioners(self) -> tuple[str, ...]:
        """Names of the reinforced dataset's captioners, in their order."""
        return tuple(c.name for c in self.captioners) if self.dataset.captioners is None else self.dataset.captioners

    @property
    def group_names(self) -> list[str]:
        """Names of the partitions: ``g00``, ``g01`` and so on."""
        return [f"g{number:02d}" for number in range(self.groups)]

    def locate(self, url: str) -> str:
        """Resolve a relative path against the profile's folder. Return ``s3://`` URLs unchanged."""
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
        for field, entries in named.items():
            names = [entry.name for entry in entries]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{field}: the name '{name}' is used twice; names must be unique")
        self._check_references()
        return self

    def _check_wise_ft(self, field: str, between: WiseFT) -> None:
        end = self.student(between.to)
        if not end.train or not (end.base or (end.model and end.model.pretrained)):
            raise ValueError(
                f"{field}.to: '{end.name}' was not trained from given weights; "
                "name a student with 'train' and a 'base' or 'model.weights'"
            )
        for name in between.pick.sets:
            if name in TASKS and not TASKS[name].main:
                raise ValueError(f"{field}.pick: '{name}' has no main metric; name another set")

    def _check_references(self) -> None:
        def check_names(field: str, wanted: tuple[str, ...] | list[str], names: tuple[str, ...] | list[str]) -> None:
            for name in wanted:
                if name not in names:
                    suggestion = did_you_mean(name, names)
                    raise ValueError(
                        f"{field}: there is no '{name}'{suggestion or f'; the profile has {listed(names)}'}"
                    )

        captioners = [captioner.name for captioner in self.captioners]
        corpora = [f"caption_corpus/{corpus.name}" for corpus in self.caption_corpora]
        check_names("gate.sets", self.gate.sets or (), [*(source.name for source in self.evaluation), *AVERAGES])
        check_names("dataset.teachers", self.dataset_teachers, [teacher.name for teacher in self.teachers])
        check_names("dataset.captioners", self.dataset_captioners, captioners)
        for position, captioner in enumerate(self.captioners):
            if captioner.base:
                check_names(f"captioners.{captioner.name}.base", (captioner.base,), captioners[:position])
            if captioner.train_on:
                check_names(f"captioners.{captioner.name}.train_on", (captioner.train_on,), ["raw_shards", *corpora])
        for teacher in self.teachers:
            if teacher.locked:
                check_names(
                    f"teachers.{teacher.name}.locked.train_on",
                    teacher.locked.train_on,
                    ["raw_shards", *corpora],
                )
        students = [student.name for student in self.students]
        for position, student in enumerate(self.students):
            field = f"students.{student.name}"
            if student.base:
                check_names(f"{field}.base", (student.base,), students[:position])
            if student.between:
                check_names(f"{field}.between.to", (student.between.to,), students[:position])
                check_names(
                    f"{field}.between.pick", student.between.pick.sets, [source.name for source in self.evaluation]
                )
                self._check_wise_ft(f"{field}.between", student.between)
            self._check_student(field, student, check_names)
        for study in self.studies:
            field = f"studies.{study.name}"
            check_names(f"{field}.student", (study.student,), students)
            if not self.student(study.student).train:
                raise ValueError(f"{field}.student: '{study.student}' is not trained; name a student with 'train'")
            check_names(f"{field}.scales", tuple(study.scales), self.dataset_teachers)
            for name, student in study.trials(self).items():
                self._check_student(f"{field}.{name}", student, check_names)

    def _check_student(self, field: str, student: Student, check_names: Callable[..., None]) -> None:
        check_names(f"{field}.evaluate_on", student.evaluate_on, [source.name for source in self.evaluation])
        if student.loss.captioners is not None:
            check_names(f"{field}.loss.captioners", student.loss.captioners, self.dataset_captioners)
        check_names(f"{field}.loss.logit_scales", tuple(student.loss.logit_scales), self.dataset_teachers)
        if student.train and student.data == "reinforced":
            if not self.dataset_teachers:
                raise ValueError(f"{field}: a reinforced student needs at least one teacher in the dataset")
            if not self.dataset_captioners and student.loss.captions != "real":
                raise ValueError(f"{field}.loss.captions: the dataset has no captioner; use 'real'")
            if student.loss.distill and not any(self.logit_scales(student)):
                raise ValueError(
                    f"{field}.loss.logit_scales: every teacher is excluded; keep one, or set 'distill' to 0"
                )
            for name in self.dataset_teachers:
                if self.teacher(name).logit_scale is None and name not in student.loss.logit_scales:
                    raise ValueError(
                        f"teachers.{name}.logit_scale is missing; student '{student.name}' distils from it. "
                        "The paper found optima from 50 to 90"
                    )


def parse(text: str, *, origin: Path) -> Profile:
    """Parse a profile from YAML text.

    Raises:
        ProfileError: the profile is invalid. The message names the file and each invalid field.
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
        raise ProfileError(f"{origin}: the profile is invalid; nothing was run\n" + "\n".join(lines)) from None


def load(path: str | Path) -> Profile:
    """Read a profile from a YAML file.

    Raises:
        ProfileError: the file cannot be read or the profile is invalid.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except OSError as error:
        raise ProfileError(f"{path}: cannot read the profile: {error.strerror}") from error
    return parse(text, origin=path)
