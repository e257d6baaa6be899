"""Build the asset graph of a profile: all assets, their parts, declared fields and inputs. This module computes no output.

Users materialize assets. An asset has *parts* that are computed and reused independently: one per view, synthetic caption or
evaluation set. If a profile changes from two views to four, only the two new views are embedded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from mobileclip2.config.captioner import Captioner
from mobileclip2.config.model import Model
from mobileclip2.config.profile import Profile
from mobileclip2.config.student import Student, WiseFT
from mobileclip2.config.teacher import Teacher
from mobileclip2.engine.source_inventory import External, Folder, GroupShards, HubModel, Pinned
from mobileclip2.fingerprint import declared

CODE_VERSIONS = {
    "raw_shards": "1",
    "augmentations": "1",
    "caption_corpus": "1",
    "captioner": "2",
    "synthetic_captions": "1",
    "teacher": "2",
    "teacher_embeddings": "2",
    "reinforced_dataset": "2",
    "student": "2",
    "evaluation": "4",
    "study": "1",
}
"""versions by stage; raise a version when the code of the stage changes the bytes that it writes"""

DEFAULT_SLICE = "whole"
"""part name of an asset with a single part"""


@dataclass(frozen=True)
class Input:
    """An upstream asset. If both assets are grouped, it is read for the same group only; otherwise for all its groups."""

    asset: str
    part: str | None = None
    """name of the part to read; None reads every part"""


@dataclass(frozen=True)
class Slice:
    """A part of an asset: the unit that is computed and reused, with its declared fields and inputs."""

    name: str
    declared: dict[str, Any]
    inputs: dict[str, Input] = field(default_factory=dict)
    externals: dict[str, External] = field(default_factory=dict)


@dataclass(frozen=True)
class Asset:
    """One Dagster asset with its parts."""

    key: str
    grouped: bool
    parts: dict[str, Slice]
    description: str
    by_part: bool = False
    """whether each part is a partition of its own, with the part name as its key"""

    def parts_of(self, group: str | None) -> dict[str, Slice]:
        """Return the parts that one materialization of a group computes."""
        if self.by_part:
            assert group is not None
            return {group: self.parts[group]}
        return self.parts

    @property
    def stage(self) -> str:
        """Return the first component of the key, for example ``teacher``."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """Return the second component of the key, for example the name of the teacher; empty for shared assets."""
        return self.key.partition("/")[2].partition("/")[0]

    @property
    def trains(self) -> bool:
        """Return whether the asset is a training, which torchrun can distribute."""
        return any(part.declared.get("train") or part.declared.get("locked") for part in self.parts.values())

    @property
    def code_version(self) -> str:
        """Return the code version of the stage, which is part of every fingerprint."""
        return CODE_VERSIONS[self.stage]

    @property
    def upstream(self) -> list[str]:
        """Return the keys of the assets that it reads, without duplicates."""
        return list(dict.fromkeys(source.asset for part in self.parts.values() for source in part.inputs.values()))


Graph = dict[str, Asset]
"""assets by key in topological order"""


def build_graph(profile: Profile) -> Graph:
    """Return all assets of a profile in topological order."""
    assets = [
        *_shards(profile),
        *_captioners(profile),
        *_teachers(profile),
        *_dataset(profile),
        *_students(profile),
        *_studies(profile),
    ]
    return {asset.key: asset for asset in assets}


def _single(key: str, description: str, part: Slice, *, grouped: bool = False) -> Asset:
    return Asset(key, grouped, {part.name: part}, description)


def _shards(profile: Profile) -> Iterator[Asset]:
    filters = declared(profile.filters)
    yield _single(
        "raw_shards",
        "Image-text pairs of the source shards. Every pair is decoded and checked; a sidecar lists the bad ones.",
        Slice(DEFAULT_SLICE, {"filters": filters}, externals={"shards": GroupShards()}),
        grouped=True,
    )
    views = profile.views
    yield Asset(
        "augmentations",
        True,
        {
            f"view-{view}": Slice(
                f"view-{view}",
                {"augmentation": declared(views.augmentation), "seed": views.seed, "view": view},
                {"raw_shards": Input("raw_shards")},
            )
            for view in range(views.count)
        },
        "Crop and RandAugment parameters of every view of every image. All teachers and students use the same ones.",
    )
    for corpus in profile.caption_corpora:
        yield _single(
            f"caption_corpus/{corpus.name}",
            "A small clean image-caption set on which captioners are fine-tuned.",
            Slice(DEFAULT_SLICE, {"filters": filters}, externals={"shards": Folder(corpus.url, corpus.pattern)}),
        )


def _model_externals(model: Model | None) -> dict[str, External]:
    """Return the file of a model's weights, and the repositories or folders with its other files."""
    externals: dict[str, External] = {}
    if model and model.weights and not model.published.get("hf_hub"):
        externals["weights"] = Pinned(model.weights)
    if model and model.hub:
        externals["hub"] = HubModel(model)
    if model:
        externals |= {role: Folder(folder, "/*") for role, folder in model.text_folders.items()}
    return externals


def _captioners(profile: Profile) -> Iterator[Asset]:
    for captioner in profile.captioners:
        yield _captioner(captioner)
        if captioner.name not in profile.dataset_captioners:
            continue
        yield Asset(
            f"synthetic_captions/{captioner.name}",
            True,
            {
                f"caption-{index}": Slice(
                    f"caption-{index}",
                    {"generation": declared(captioner.generation), "caption": index},
                    {"captioner": Input(f"captioner/{captioner.name}"), "raw_shards": Input("raw_shards")},
                )
                for index in range(captioner.captions)
            },
            f"Captions that {captioner.name} writes for every image by nucleus sampling.",
        )


def _captioner(captioner: Captioner) -> Asset:
    inputs, externals = {}, _model_externals(captioner.model)
    if captioner.base:
        inputs["base"] = Input(f"captioner/{captioner.base}")
    if captioner.train_on:
        inputs["data"] = Input(captioner.train_on)
    if captioner.trunk_weights:
        externals["trunk"] = Pinned(captioner.trunk_weights)
    fields = {
        "model": declared(captioner.model),
        "small": declared(captioner.small),
        "train": declared(captioner.train),
    }
    return _single(
        f"captioner/{captioner.name}",
        f"A CoCa captioner{f' that starts from {captioner.base}' if captioner.base else ''}"
        + (
            f", trained on {captioner.train_on} with the contrastive and the caption loss."
            if captioner.train_on
            else "."
        ),
        Slice(DEFAULT_SLICE, fields, inputs, externals),
    )


def _teachers(profile: Profile) -> Iterator[Asset]:
    for teacher in profile.teachers:
        yield _teacher(teacher)
        embeddings = f"teacher_embeddings/{teacher.name}"
        model = {"teacher": Input(f"teacher/{teacher.name}")}
        yield Asset(
            f"{embeddings}/image",
            True,
            {
                # declared because empty groups have equal views, and their embeddings still need different fingerprints
                f"view-{view}": Slice(
                    f"view-{view}",
                    {"view": view},
                    {
                        **model,
                        "raw_shards": Input("raw_shards"),
                        "view": Input("augmentations", f"view-{view}"),
                    },
                )
                for view in range(profile.views.count)
            },
            f"{teacher.name}'s normalized bf16 embeddings of every stored view, at its own input size.",
        )
        yield _single(
            f"{embeddings}/text",
            f"{teacher.name}'s normalized bf16 embeddings of the real captions.",
            Slice(DEFAULT_SLICE, {}, {**model, "texts": Input("raw_shards")}),
            grouped=True,
        )
        for name in profile.dataset_captioners:
            yield Asset(
                f"{embeddings}/{name}",
                True,
                {
                    f"caption-{index}": Slice(
                        f"caption-{index}",
                        {"caption": index},
                        {**model, "texts": Input(f"synthetic_captions/{name}", f"caption-{index}")},
                    )
                    for index in range(profile.captioner(name).captions)
                },
                f"{teacher.name}'s normalized bf16 embeddings of the captions that {name} wrote.",
            )


def _teacher(teacher: Teacher) -> Asset:
    inputs: dict[str, Input] = {}
    externals = _model_externals(teacher.model)
    fields: dict[str, Any] = {"model": declared(teacher.model), "locked": declared(teacher.locked)}
    if teacher.locked:
        externals = {"trunk": Pinned(teacher.locked.trunk_weights)}
        if text := teacher.locked.text_weights:
            externals["text"] = Pinned(text)
            if text.path:
                externals["text_config"] = Folder(str(PurePosixPath(text.path).parent), "/*.json")
        inputs = {f"data-{number}": Input(source) for number, source in enumerate(teacher.locked.train_on)}
    return _single(
        f"teacher/{teacher.name}",
        "Frozen pretrained towers with two projections that this asset trains."
        if teacher.locked
        else "A teacher with pretrained weights, pinned by their hash.",
        Slice(DEFAULT_SLICE, fields, inputs, externals),
    )


def _dataset(profile: Profile) -> Iterator[Asset]:
    if not profile.dataset_teachers:
        return
    inputs = {"raw_shards": Input("raw_shards"), "augmentations": Input("augmentations")}
    for captioner in profile.dataset_captioners:
        inputs[f"captions/{captioner}"] = Input(f"synthetic_captions/{captioner}")
    for teacher in profile.dataset_teachers:
        for kind in ("image", "text", *profile.dataset_captioners):
            inputs[f"embeddings/{teacher}/{kind}"] = Input(f"teacher_embeddings/{teacher}/{kind}")
    fields = {
        "teachers": list(profile.dataset_teachers),
        "captioners": list(profile.dataset_captioners),
        "storage": profile.dataset.storage,
        "images": profile.dataset.images,
    }
    yield _single(
        "reinforced_dataset",
        "Images, captions, view parameters and all embeddings, joined by sample key into DR WebDataset tars.",
        Slice(DEFAULT_SLICE, fields, inputs),
        grouped=True,
    )


def _students(profile: Profile) -> Iterator[Asset]:
    for student in profile.students:
        yield _student(profile, student)
    models = [f"student/{s.name}" for s in profile.students] + [f"teacher/{t.name}" for t in profile.teachers]
    for model in models if profile.evaluation else []:
        yield Asset(
            f"evaluation/{model.partition('/')[2]}",
            False,
            {
                source.name: Slice(
                    source.name, {"set": source.name}, {"model": Input(model)}, {"set": Folder(source.url)}
                )
                for source in profile.evaluation
            },
            f"Zero-shot classification and retrieval of {model} in the DataComp result format.",
            by_part=True,
        )


def _studies(profile: Profile) -> Iterator[Asset]:
    for study in profile.studies:
        yield Asset(
            f"study/{study.name}",
            False,
            {name: _student_part(profile, student, name) for name, student in profile.trials(study).items()},
            f"Variants of {study.student}, each trained with every seed and evaluated on "
            f"{' and '.join(study.evaluate_on)}.",
            by_part=True,
        )


def _student(profile: Profile, student: Student) -> Asset:
    if student.between:
        return _wise_ft(profile, student.name, student.between)
    if not student.train:
        return _single(
            f"student/{student.name}",
            "A small image-text model with pretrained weights.",
            Slice(DEFAULT_SLICE, {"model": declared(student.model)}, externals=_model_externals(student.model)),
        )
    return _single(
        f"student/{student.name}",
        "A small image-text model, "
        + ("trained on the raw pairs." if student.data == "raw" else "distilled from the reinforced dataset."),
        _student_part(profile, student, DEFAULT_SLICE),
    )


def _student_part(profile: Profile, student: Student, name: str) -> Slice:
    fields: dict[str, Any] = {
        "model": declared(student.model),
        "data": student.data,
        "train": declared(student.train),
    }
    inputs = {"base": Input(f"student/{student.base}")} if student.base else {}
    if student.data == "raw":
        fields["augmentation"] = declared(profile.views.augmentation)
        inputs["data"] = Input("raw_shards")
    else:
        fields["loss"] = declared(student.loss)
        fields["loss"]["captioners"] = _chosen_names(student.loss.captioners, profile.dataset_captioners)
        del fields["loss"]["logit_scales"]  # replaced by the resolved scale of every teacher
        fields["logit_scales"] = profile.logit_scales(student)
        inputs["data"] = Input("reinforced_dataset")
        if not profile.dataset.images:
            inputs["raw_shards"] = Input("raw_shards")
    externals = {**_model_externals(student.model), **_curve_sets(profile, student.evaluate_on)}
    return Slice(name, fields, inputs, externals)


def _chosen_names(chosen: Sequence[str] | None, of: Sequence[str]) -> list[str] | None:
    """Return the chosen names in the order of ``of``. Return None if all are chosen."""
    return None if chosen is None or set(chosen) == set(of) else [name for name in of if name in chosen]


def _wise_ft(profile: Profile, name: str, wise_ft: WiseFT) -> Asset:
    end = profile.student(wise_ft.to)
    fields: dict[str, Any] = {"weights": list(wise_ft.weights), "pick": declared(wise_ft.pick)}
    inputs = {"end": Input(f"student/{end.name}")}
    externals = _curve_sets(profile, wise_ft.pick.sets)
    if end.base:
        inputs["start"] = Input(f"student/{end.base}")
    else:
        fields["start"] = declared(end.model)
        externals |= _model_externals(end.model)
    return _single(
        f"student/{name}",
        f"Weights interpolated between {end.base or 'the pretrained ones'} and {end.name}, picked by the rule of the profile.",
        Slice(DEFAULT_SLICE, fields, inputs, externals),
    )


def _curve_sets(profile: Profile, names: Sequence[str]) -> dict[str, External]:
    return {f"curve/{source.name}": Folder(source.url) for source in profile.evaluation if source.name in names}
