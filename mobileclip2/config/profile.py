"""Profiles: YAML files that configure a pipeline.

A profile lists shards, views, captioners, teachers with their logit scales, students and evaluation sets. It is validated
completely before any work starts. Every error names the field. Relative paths are relative to the profile's file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from mobileclip2.config.augmentation import WEAK_AUGMENTATION, Augmentation
from mobileclip2.config.captioner import Captioner
from mobileclip2.config.checks import Checks
from mobileclip2.config.compute import ComputeSettings
from mobileclip2.config.dataset import Dataset, Views
from mobileclip2.config.evaluation_tasks import AVERAGES, TASKS
from mobileclip2.config.filtering import Filter, Select
from mobileclip2.config.filters import Filters
from mobileclip2.config.gate import Gate
from mobileclip2.config.location import HttpAddress, LocalPath, Location
from mobileclip2.config.read_yaml import parse_yaml, read_text, redact
from mobileclip2.config.settings import Name, Named, Positive, Settings, Stage, undeclared
from mobileclip2.config.sources import OWN, Corpus, EvaluationSource, ReinforcedShards, Source
from mobileclip2.config.student import Student, WiseFT
from mobileclip2.config.study import Study
from mobileclip2.config.teacher import Teacher
from mobileclip2.errors import ProfileError
from mobileclip2.names import did_you_mean, listed

MAX_GROUPS = 99
"""maximum number of partitions; Dagster ignores edges with 100 or more upstream partitions when it computes staleness"""

# the devices of torch that compute; a profile is read without torch
_DEVICE = re.compile("auto|(cpu|cuda|hip|hpu|ipu|maia|mps|mtia|npu|privateuseone|ve|vulkan|xla|xpu)(:(0|[1-9][0-9]?))?")


def _device(value: str) -> str:
    if not _DEVICE.fullmatch(value):
        raise ValueError(f"torch has no device '{value}'; write 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'")
    return value


def _names(entries: Iterable[Named]) -> list[str]:
    return [entry.name for entry in entries]


def _check_names(field: str, wanted: Iterable[str | None], names: Collection[str]) -> None:
    for name in wanted:
        if name is not None and name not in names:
            suggestion = did_you_mean(name, names)
            raise ValueError(f"{field}: there is no '{name}'{suggestion or f'; the profile has {listed(names)}'}")


class Profile(Settings):
    """A complete pipeline."""

    name: Name
    store: Location = undeclared()
    groups: int = Field(16, ge=1)
    sources: tuple[Source, ...] = ()
    reinforced: tuple[ReinforcedShards, ...] = ()
    """published reinforced datasets, which students can learn from"""
    filters: Filters = Filters()
    filtering: tuple[Filter, ...] = ()
    select: Select | None = None
    max_bad_share: float = undeclared(0.1, ge=0, le=1)
    views: Views = Views()
    caption_corpora: tuple[Corpus, ...] = ()
    captioners: tuple[Captioner, ...] = ()
    teachers: tuple[Teacher, ...] = ()
    dataset: Dataset = Dataset()
    students: tuple[Student, ...] = ()
    studies: tuple[Study, ...] = ()
    evaluation: tuple[EvaluationSource, ...] = ()
    gate: Gate = undeclared(Gate())
    checks: Checks = undeclared(Checks())
    device: Annotated[str, AfterValidator(_device)] = undeclared("auto")
    batch: int = undeclared(64, ge=1)
    """batch size of teachers and captioners"""
    rates: dict[str, Positive] = undeclared({})
    """samples per second by stage or asset; they set the cost of a plan and the chunk size until rates are measured"""
    ledger: LocalPath | None = undeclared(None)
    """folder of ``dvc.yaml`` in a git repository; None disables the ledger"""
    tensorboard: HttpAddress | None = undeclared(None)
    """address of a TensorBoard that shows the trainings; Dagster links to it"""
    compute: ComputeSettings = undeclared(ComputeSettings())
    folder: str = undeclared("", exclude=True)
    """folder of the profile's file, set on loading"""
    file: str = undeclared("", exclude=True)
    """path of the profile's file, set on loading"""
    text: str = undeclared("", exclude=True)
    """text of the profile's file, set on loading"""
    key_prefix: str = undeclared("", exclude=True)
    """prefix of Dagster's keys, groups and resources, set by a component, so that several profiles share a code location"""

    def reload(self) -> Profile:
        """Read the file again, and keep the prefix.

        Raises:
            ProfileError: see :func:`load`.
        """
        return load(self.file).model_copy(update={"key_prefix": self.key_prefix})

    def teacher(self, name: str) -> Teacher:
        """Return the teacher with this name."""
        return next(teacher for teacher in self.teachers if teacher.name == name)

    def captioner(self, name: str) -> Captioner:
        """Return the captioner with this name."""
        return next(captioner for captioner in self.captioners if captioner.name == name)

    def student(self, name: str) -> Student:
        """Return the student with this name."""
        return next(student for student in self.students if student.name == name)

    def reinforced_shards(self, name: str) -> ReinforcedShards:
        """Return the published reinforced dataset with this name."""
        return next(source for source in self.reinforced if source.name == name)

    def datasets_of(self, student: Student) -> tuple[str, ...]:
        """Return the names of the reinforced datasets of a student: ``OWN``, then the published ones by name."""
        # the order of the samples depends on this order, and no fingerprint contains the order of the profile
        return tuple(sorted(student.datasets or self.reinforced_datasets[:1], key=lambda name: (name != OWN, name)))

    @property
    def reinforced_datasets(self) -> tuple[str, ...]:
        """Names of all reinforced datasets: the one that the profile makes, then the published ones."""
        return (*((OWN,) if self.dataset_teachers else ()), *_names(self.reinforced))

    def teacher_scales(self, dataset: str) -> dict[str, float | None]:
        """Return the logit scale of each teacher of a reinforced dataset, in the order of the embeddings."""
        if dataset == OWN:
            return {name: self.teacher(name).logit_scale for name in self.dataset_teachers}
        return {teacher.name: teacher.logit_scale for teacher in self.reinforced_shards(dataset).teachers}

    def logit_scales(self, student: Student) -> list[float | None]:
        """Return a logit scale for each teacher of the student's datasets in order, or None if the student excludes it."""
        scales = self.teacher_scales(self.datasets_of(student)[0])
        return [student.loss.logit_scales.get(name, scale) for name, scale in scales.items()]

    def augmentation(self, student: Student) -> Augmentation | None:
        """Return the augmentation of a student's own views, or None if the student sees the stored views."""
        if student.distills:
            return None
        named = {"weak": WEAK_AUGMENTATION, "views": self.views.augmentation}
        return named[student.augmentation] if isinstance(student.augmentation, str) else student.augmentation

    def study(self, name: str) -> Study:
        """Return the study with this name."""
        return next(study for study in self.studies if study.name == name)

    def trials(self, study: Study) -> dict[str, Student]:
        """Return the student of every trial of a study by its name."""
        student = self.student(study.student)
        datasets = self.datasets_of(student)
        return study.trials(student, tuple(self.teacher_scales(datasets[0])) if datasets else ())

    @property
    def dataset_teachers(self) -> tuple[str, ...]:
        """Names of the reinforced dataset's teachers, in the order of their embeddings."""
        if self.dataset.teachers is not None:
            return self.dataset.teachers
        return tuple(_names(self.teachers)) if self.sources else ()

    @property
    def dataset_captioners(self) -> tuple[str, ...]:
        """Names of the reinforced dataset's captioners, in their order."""
        if self.dataset.captioners is not None:
            return self.dataset.captioners
        return tuple(_names(self.captioners)) if self.sources else ()

    @property
    def group_names(self) -> list[str]:
        """Names of the partitions: ``g00``, ``g01`` and so on."""
        return [f"g{number:02d}" for number in range(self.groups)]

    @cached_property
    def public_text(self) -> str:
        """Text of the profile's file without the values of environment variables of pods, which can be secrets."""
        variables = ("pod_template", "spec", "*", "*", "env", "*", "value")
        paths = ("env",), variables, ("stages", "*", *variables)
        return redact(self.text, *(("compute", "kubernetes", *path) for path in paths))

    def locate(self, url: str) -> str:
        """Resolve a relative path against the profile's folder. Return ``s3://`` URLs unchanged."""
        return url if url.startswith("s3://") else os.path.normpath(Path(self.folder) / url)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.groups > MAX_GROUPS:
            raise ValueError(
                f"groups: {self.groups} is more than {MAX_GROUPS}; Dagster ignores an edge with 100 or more partitions when "
                "it decides what is stale, so put more shards into each group"
            )
        if not self.sources and not self.reinforced:
            raise ValueError(
                "sources: missing; name at least one folder of shards, or published shards in 'reinforced'"
            )
        named: dict[str, Sequence[Named]] = {
            "sources": self.sources,
            "reinforced": self.reinforced,
            "caption_corpora": self.caption_corpora,
            "captioners": self.captioners,
            "teachers": self.teachers,
            "filtering": self.filtering,
            "students": self.students,
            "studies": self.studies,
            "evaluation": self.evaluation,
            "students and teachers (they share the evaluation's names)": (*self.students, *self.teachers),
        }
        for field, entries in named.items():
            names = _names(entries)
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
        captioners, teachers, students = _names(self.captioners), _names(self.teachers), _names(self.students)
        evaluation = _names(self.evaluation)
        corpora = [f"caption_corpus/{name}" for name in _names(self.caption_corpora)]
        raw = ["raw_shards"] if self.sources else []
        pairs = [*raw, *(["selected_shards"] if self.select else [])]
        scoring = {filter_.model for filter_ in self.filtering}
        if not self.sources:
            if self.dataset_teachers or self.dataset_captioners:
                raise ValueError("dataset: a reinforced dataset needs 'sources'; add one, or remove 'dataset'")
            if self.filtering or self.select:
                raise ValueError("filtering: 'filtering' and 'select' need 'sources'; add one, or remove them")
        made: list[Named] = [*self.caption_corpora, *self.captioners, *self.teachers, *self.filtering]
        made += [*self.reinforced, *self.students, *self.studies]
        for key in self.rates:
            stage, *names = key.split("/")
            _check_names("rates", [stage], get_args(Stage))
            _check_names(f"rates.{stage}", names, ["image", "text", *_names(made)])
        _check_names("gate.sets", self.gate.sets or (), [*evaluation, *AVERAGES])
        _check_names("dataset.teachers", self.dataset_teachers, teachers)
        _check_names("dataset.captioners", self.dataset_captioners, captioners)
        for position, captioner in enumerate(self.captioners):
            _check_names(f"captioners.{captioner.name}.base", (captioner.base,), captioners[:position])
            _check_names(f"captioners.{captioner.name}.train_on", (captioner.train_on,), [*pairs, *corpora])
        for filter_ in self.filtering:
            field = f"filtering.{filter_.name}.model"
            models = [*(f"teacher/{name}" for name in teachers), *(f"student/{name}" for name in students)]
            _check_names(field, (filter_.model,), models)
            kind, _, name = filter_.model.partition("/")
            if kind == "student" and (self.student(name).train or self.student(name).between):
                raise ValueError(f"{field}: '{name}' trains on the pairs that it would select; name a pretrained model")
        if self.select:
            _check_names("select.by", (self.select.by,), _names(self.filtering))
            _check_names("select.decontaminate", self.select.decontaminate, evaluation)
        for teacher in self.teachers:
            if teacher.locked:
                # a model cannot train on the pairs that its own scores select
                known = [*(raw if f"teacher/{teacher.name}" in scoring else pairs), *corpora]
                _check_names(f"teachers.{teacher.name}.locked.train_on", teacher.locked.train_on, known)
        for position, student in enumerate(self.students):
            field = f"students.{student.name}"
            _check_names(f"{field}.base", (student.base,), students[:position])
            if student.between:
                _check_names(f"{field}.between.to", (student.between.to,), students[:position])
                _check_names(f"{field}.between.pick", student.between.pick.sets, evaluation)
                self._check_wise_ft(f"{field}.between", student.between)
            self._check_student(field, student)
        for study in self.studies:
            field = f"studies.{study.name}"
            _check_names(f"{field}.student", (study.student,), students)
            if not self.student(study.student).train:
                raise ValueError(f"{field}.student: '{study.student}' is not trained; name a student with 'train'")
            self._check_datasets(f"students.{study.student}", self.student(study.student))
            for dataset in self.datasets_of(self.student(study.student))[:1]:
                _check_names(f"{field}.scales", study.scales, self.teacher_scales(dataset))
            for name, student in self.trials(study).items():
                self._check_student(f"{field}.{name}", student)

    def _check_student(self, field: str, student: Student) -> None:
        _check_names(f"{field}.evaluate_on", student.evaluate_on, _names(self.evaluation))
        _check_names(f"{field}.corpora", student.corpora, _names(self.caption_corpora))
        if student.train and student.data == "raw" and not self.sources:
            raise ValueError(f"{field}.data: 'raw' needs 'sources'; add one, or use 'reinforced'")
        if student.train and student.data == "reinforced":
            self._check_datasets(field, student)
            datasets = self.datasets_of(student)
            teachers = self.teacher_scales(datasets[0])
            _check_names(f"{field}.loss.logit_scales", student.loss.logit_scales, teachers)
            # the captioners of published shards are known when they are read
            if student.loss.captioners is not None and datasets == (OWN,):
                _check_names(f"{field}.loss.captioners", student.loss.captioners, self.dataset_captioners)
            if OWN in datasets and not self.dataset_captioners and student.loss.captions != "real":
                raise ValueError(f"{field}.loss.captions: the dataset has no captioner; use 'real'")
            if student.loss.distill and not any(self.logit_scales(student)):
                raise ValueError(
                    f"{field}.loss.logit_scales: every teacher is excluded; keep one, or set 'distill' to 0"
                )
            for name, scale in teachers.items():
                if scale is None and name not in student.loss.logit_scales:
                    raise ValueError(
                        f"teachers.{name}.logit_scale is missing; student '{student.name}' distils from it. "
                        "The paper found optima from 50 to 90"
                    )

    def _check_datasets(self, field: str, student: Student) -> None:
        """Check that the datasets of a student exist and have the same teachers with the same logit scales."""
        if not self.reinforced_datasets:
            raise ValueError(
                f"{field}: a reinforced student needs at least one teacher in the dataset, or a dataset in 'reinforced'"
            )
        _check_names(f"{field}.datasets", student.datasets or (), self.reinforced_datasets)
        if student.datasets is None and len(self.reinforced_datasets) > 1:
            raise ValueError(
                f"{field}.datasets: the profile has {listed(self.reinforced_datasets)}; name those that the student learns from"
            )
        first, *others = self.datasets_of(student)
        for other in others:
            if list(self.teacher_scales(other).items()) != list(self.teacher_scales(first).items()):
                found = " and ".join(
                    f"'{name}' has {', '.join(f'{each} ({scale or 0:g})' for each, scale in self.teacher_scales(name).items())}"
                    for name in (first, other)
                )
                raise ValueError(
                    f"{field}.datasets: a student learns from the same teachers, in one order and with one logit scale each; "
                    f"{found}. Name one dataset, or correct the teachers"
                )


MAX_PROBLEMS = 20
"""maximum number of problems in one message"""


def parse(text: str, *, origin: Path) -> Profile:
    """Parse a profile from YAML text.

    Raises:
        ProfileError: the profile is invalid. The message names the file and each invalid field.
    """
    values = parse_yaml(text, str(origin))
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
        if len(lines) > MAX_PROBLEMS:
            lines[MAX_PROBLEMS:] = [f"  and {len(lines) - MAX_PROBLEMS} more"]
        raise ProfileError(f"{origin}: the profile is invalid; nothing was run\n" + "\n".join(lines)) from None


def load(path: str | Path) -> Profile:
    """Read a profile from a YAML file.

    Raises:
        ProfileError: the file cannot be read or the profile is invalid.
    """
    return parse(read_text(Path(path)), origin=Path(path))
