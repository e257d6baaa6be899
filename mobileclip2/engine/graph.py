"""Build the asset graph of a profile: all assets, their slices, declared fields and inputs. This module computes no output.

Users materialize assets. An asset has *slices* that are computed and reused independently: one per view, synthetic caption or
evaluation set. If a profile changes from two views to four, only the two new views are embedded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.augmentation import EARLIER_RENDERING
from mobileclip2.config.captioner import Captioner
from mobileclip2.config.model import Model
from mobileclip2.config.profile import Profile
from mobileclip2.config.sources import OWN
from mobileclip2.config.student import Student, WiseFT
from mobileclip2.config.teacher import Teacher
from mobileclip2.engine.external import External, Folder, GroupShards
from mobileclip2.fingerprint import declared

CODE_VERSIONS = {
    "raw_shards": "1",
    "filter_scores": "1",
    "selection": "1",
    "selected_shards": "1",
    "augmentations": "1",
    "caption_corpus": "1",
    "captioner": "2",
    "synthetic_captions": "1",
    "teacher": "2",
    "teacher_embeddings": "2",
    "reinforced_dataset": "3",
    "reinforced_shards": "1",
    "student": "2",
    "evaluation": "4",
    "study": "1",
}
"""versions by stage; raise a version when the code of the stage changes the bytes that it writes"""

DEFAULT_SLICE = "whole"
"""slice name of an asset with a single slice"""


@dataclass(frozen=True)
class Input:
    """An upstream asset. If both assets are grouped, it is read for the same group only; otherwise for all its groups."""

    asset: AssetKey
    slice: str | None = None
    """name of the slice to read; None reads every slice"""


@dataclass(frozen=True)
class Slice:
    """A slice of an asset: the unit that is computed and reused, with its declared fields and inputs."""

    name: str
    declared: dict[str, Any]
    inputs: dict[str, Input] = field(default_factory=dict)
    externals: dict[str, External] = field(default_factory=dict)

    @property
    def training_samples(self) -> int | None:
        """Return the number of samples that the training of a student or captioner sees. None if it does not train."""
        train = self.declared.get("train")
        return int(train["samples"] or train["steps"] * train["batch"]) if train else None


@dataclass(frozen=True)
class Asset:
    """One Dagster asset with its slices."""

    key: AssetKey
    grouped: bool
    slices: dict[str, Slice]
    description: str
    by_slice: bool = False
    """whether each slice is a partition of its own, with the slice name as its key"""

    def slices_of(self, group: str | None) -> dict[str, Slice]:
        """Return the slices that one materialization of a group computes."""
        if self.by_slice:
            assert group is not None
            return {group: self.slices[group]}
        return self.slices

    @property
    def stage(self) -> str:
        """Return the stage that computes the asset, for example ``teacher``."""
        return self.key.stage

    @property
    def name(self) -> str:
        """Return the name of the teacher, captioner, student, study or set; empty for shared assets."""
        return self.key.name

    @property
    def trains(self) -> bool:
        """Return whether the asset is a training, which torchrun can distribute."""
        return any(slice_.declared.get("train") or slice_.declared.get("locked") for slice_ in self.slices.values())

    @property
    def code_version(self) -> str:
        """Return the code version of the stage, which is part of every fingerprint."""
        return CODE_VERSIONS[self.stage]

    @property
    def upstream(self) -> list[AssetKey]:
        """Return the keys of the assets that it reads, without duplicates."""
        return list(dict.fromkeys(source.asset for slice_ in self.slices.values() for source in slice_.inputs.values()))


Graph = dict[str, Asset]
"""assets by key in topological order"""


def build_graph(profile: Profile) -> Graph:
    """Return all assets of a profile in topological order."""
    assets = [
        *_shards(profile),
        *_teachers(profile),
        *_captioners(profile),
        *_dataset(profile),
        *_published(profile),
        *_students(profile),
        *_studies(profile),
    ]
    by_key = {asset.key: asset for asset in assets}
    graph: Graph = {}

    def add(asset: Asset) -> None:
        if asset.key not in graph:
            for upstream in asset.upstream:
                add(by_key[upstream])
            graph[asset.key] = asset

    for asset in by_key.values():
        add(asset)
    return graph


RAW_SHARDS = AssetKey.of("raw_shards")
SELECTION = AssetKey.of("selection")
SELECTED_SHARDS = AssetKey.of("selected_shards")
AUGMENTATIONS = AssetKey.of("augmentations")
REINFORCED_DATASET = AssetKey.of("reinforced_dataset")


def _asset(
    key: AssetKey, description: str, slices: Sequence[Slice], *, grouped: bool = False, by_slice: bool = False
) -> Asset:
    return Asset(key, grouped, {slice_.name: slice_ for slice_ in slices}, description, by_slice)


def _shards(profile: Profile) -> Iterator[Asset]:
    if profile.sources:
        yield from _raw_shards(profile)
    for corpus in profile.caption_corpora:
        fields = {"filters": declared(profile.filters)}
        if corpus.caption_keys:
            fields["caption_keys"] = list(corpus.caption_keys)
        yield _asset(
            AssetKey.of("caption_corpus", corpus.name),
            "A small clean image-caption set on which captioners are fine-tuned.",
            [Slice(DEFAULT_SLICE, fields, externals={"shards": Folder(corpus.url, corpus.pattern)})],
        )


def _raw_shards(profile: Profile) -> Iterator[Asset]:
    fields = {"filters": declared(profile.filters)}
    if caption_keys := {source.name: list(source.caption_keys) for source in profile.sources if source.caption_keys}:
        fields["caption_keys"] = caption_keys
    yield _asset(
        RAW_SHARDS,
        "Image-text pairs of the source shards. Every pair is decoded and checked; a sidecar lists the bad ones.",
        [Slice(DEFAULT_SLICE, fields, externals={"shards": GroupShards()})],
        grouped=True,
    )
    views = profile.views
    yield from _filtering(profile)
    raw = {"raw_shards": Input(pairs_of(profile))}
    augmentation = {"augmentation": declared(views.augmentation), "seed": views.seed}
    yield _asset(
        AUGMENTATIONS,
        "Crop and RandAugment parameters of every view of every image. All teachers and students use the same ones.",
        [Slice(f"view-{view}", {**augmentation, "view": view}, raw) for view in range(views.count)],
        grouped=True,
    )


def pairs_of(profile: Profile) -> AssetKey:
    """Return the asset whose pairs are reinforced and trained on: the selected ones if the profile selects."""
    return SELECTED_SHARDS if profile.select else RAW_SHARDS


def _filtering(profile: Profile) -> Iterator[Asset]:
    for filter_ in profile.filtering:
        model = AssetKey(filter_.model)
        yield _asset(
            AssetKey.of("filter_scores", filter_.name),
            f"The cosine similarity of every image and its caption by {model}, and the embedding of the image.",
            [Slice(DEFAULT_SLICE, {}, {"raw_shards": Input(RAW_SHARDS), "model": Input(model)})],
            grouped=True,
        )
    if select := profile.select:
        filter_ = next(each for each in profile.filtering if each.name == select.by)
        fields = declared(select)
        inputs = {"scores": Input(AssetKey.of("filter_scores", filter_.name))}
        externals: dict[str, External] = {}
        if select.decontaminate:
            inputs["model"] = Input(AssetKey(filter_.model))
            externals = {
                f"set/{each.name}": Folder(each.url) for each in profile.evaluation if each.name in select.decontaminate
            }
        else:
            del fields["decontaminate"], fields["contaminated_above"]
        yield _asset(
            SELECTION,
            "The pairs of all groups that later stages use, and the reason why each other pair is removed.",
            [Slice(DEFAULT_SLICE, fields, inputs, externals)],
        )
        yield _asset(
            SELECTED_SHARDS,
            "The selected image-text pairs, in the form of raw_shards.",
            [Slice(DEFAULT_SLICE, {}, {"raw_shards": Input(RAW_SHARDS), "selection": Input(SELECTION)})],
            grouped=True,
        )


def _model_externals(model: Model | None) -> dict[str, External]:
    """Return the file of a model's weights, and the repositories or folders with its other files."""
    if model is None:
        return {}
    externals: dict[str, External] = {}
    if model.weights and not model.published.get("hf_hub"):
        externals["weights"] = model.weights
    if model.hub:
        externals["hub"] = model
    return externals | {role: Folder(folder, "/*") for role, folder in model.text_folders.items()}


def _captioners(profile: Profile) -> Iterator[Asset]:
    for captioner in profile.captioners:
        model = _captioner(captioner)
        yield model
        if captioner.name not in profile.dataset_captioners:
            continue
        generation = {"generation": declared(captioner.generation)}
        inputs = {"captioner": Input(model.key), "raw_shards": Input(pairs_of(profile))}
        yield _asset(
            AssetKey.of("synthetic_captions", captioner.name),
            f"Captions that {captioner.name} writes for every image by nucleus sampling.",
            [
                Slice(f"caption-{index}", {**generation, "caption": index}, inputs)
                for index in range(captioner.captions)
            ],
            grouped=True,
        )


def _captioner(captioner: Captioner) -> Asset:
    inputs, externals = {}, _model_externals(captioner.model)
    if captioner.base:
        inputs["base"] = Input(AssetKey.of("captioner", captioner.base))
    if captioner.train_on:
        inputs["data"] = Input(AssetKey(captioner.train_on))
    if captioner.trunk_weights:
        externals["trunk"] = captioner.trunk_weights
    fields = {
        "model": declared(captioner.model),
        "small": declared(captioner.small),
        "train": declared(captioner.train),
    }
    base = f" that starts from {captioner.base}" if captioner.base else ""
    training = f", trained on {captioner.train_on} with the contrastive and the caption loss"
    return _asset(
        AssetKey.of("captioner", captioner.name),
        f"A CoCa captioner{base}{training if captioner.train_on else ''}.",
        [Slice(DEFAULT_SLICE, fields, inputs, externals)],
    )


def _teachers(profile: Profile) -> Iterator[Asset]:
    for teacher in profile.teachers:
        asset = _teacher(teacher)
        yield asset
        if not profile.sources:
            continue
        model = {"teacher": Input(asset.key)}
        embeddings = f"{teacher.name}'s normalized bf16 embeddings of"
        image = {**model, "raw_shards": Input(pairs_of(profile))}
        yield _asset(
            AssetKey.of("teacher_embeddings", teacher.name, "image"),
            f"{embeddings} every stored view, at its own input size.",
            [
                # the number is declared because empty groups have equal views, and their embeddings need other fingerprints
                Slice(f"view-{view}", {"view": view}, {**image, "view": Input(AUGMENTATIONS, f"view-{view}")})
                for view in range(profile.views.count)
            ],
            grouped=True,
        )
        yield _asset(
            AssetKey.of("teacher_embeddings", teacher.name, "text"),
            f"{embeddings} the real captions.",
            [Slice(DEFAULT_SLICE, {}, {**model, "texts": Input(pairs_of(profile))})],
            grouped=True,
        )
        for captioner in profile.dataset_captioners:
            captions = AssetKey.of("synthetic_captions", captioner)
            yield _asset(
                AssetKey.of("teacher_embeddings", teacher.name, captioner),
                f"{embeddings} the captions that {captioner} wrote.",
                [
                    Slice(
                        f"caption-{index}", {"caption": index}, {**model, "texts": Input(captions, f"caption-{index}")}
                    )
                    for index in range(profile.captioner(captioner).captions)
                ],
                grouped=True,
            )


def _teacher(teacher: Teacher) -> Asset:
    inputs: dict[str, Input] = {}
    externals = _model_externals(teacher.model)
    fields: dict[str, Any] = {"model": declared(teacher.model), "locked": declared(teacher.locked)}
    if teacher.locked:
        externals = {"trunk": teacher.locked.trunk_weights}
        if text := teacher.locked.text_weights:
            externals["text"] = text
            if text.path:
                externals["text_config"] = Folder(str(PurePosixPath(text.path).parent), "/*.json")
        inputs = {f"data-{number}": Input(AssetKey(key)) for number, key in enumerate(teacher.locked.train_on)}
    return _asset(
        AssetKey.of("teacher", teacher.name),
        "Frozen pretrained towers with two projections that this asset trains."
        if teacher.locked
        else "A teacher with pretrained weights, pinned by their hash.",
        [Slice(DEFAULT_SLICE, fields, inputs, externals)],
    )


def _dataset(profile: Profile) -> Iterator[Asset]:
    if not profile.dataset_teachers:
        return
    inputs = {"raw_shards": Input(pairs_of(profile)), "augmentations": Input(AUGMENTATIONS)}
    for captioner in profile.dataset_captioners:
        inputs[f"captions/{captioner}"] = Input(AssetKey.of("synthetic_captions", captioner))
    for teacher in profile.dataset_teachers:
        for kind in ("image", "text", *profile.dataset_captioners):
            inputs[f"embeddings/{teacher}/{kind}"] = Input(AssetKey.of("teacher_embeddings", teacher, kind))
    fields = {
        "teachers": list(profile.dataset_teachers),
        "captioners": list(profile.dataset_captioners),
        "storage": profile.dataset.storage,
        "images": profile.dataset.images,
    }
    yield _asset(
        REINFORCED_DATASET,
        "Images, captions, view parameters and all embeddings, joined by sample key into DR WebDataset tars.",
        [Slice(DEFAULT_SLICE, fields, inputs)],
        grouped=True,
    )


def _published(profile: Profile) -> Iterator[Asset]:
    for source in profile.reinforced:
        fields: dict[str, Any] = {
            "filters": declared(profile.filters),
            "teachers": [{"name": teacher.name, "dim": teacher.dim} for teacher in source.teachers],
        }
        externals: dict[str, External] = {"shards": GroupShards(source.name)}
        if source.images:
            fields["uid"] = source.images.uid
            externals["images"] = Folder(source.images.url, source.images.pattern)
        yield _asset(
            AssetKey.of("reinforced_shards", source.name),
            "Published reinforced shards. Every sample is decoded and checked; a sidecar lists the bad ones.",
            [Slice(DEFAULT_SLICE, fields, externals=externals)],
            grouped=True,
        )


def _students(profile: Profile) -> Iterator[Asset]:
    for student in profile.students:
        yield _student(profile, student)
    students = [AssetKey.of("student", student.name) for student in profile.students]
    teachers = [AssetKey.of("teacher", teacher.name) for teacher in profile.teachers]
    for model in [*students, *teachers] if profile.evaluation else []:
        yield _asset(
            AssetKey.of("evaluation", model.name),
            f"Zero-shot classification and retrieval of {model} in the DataComp result format.",
            [
                Slice(source.name, {"set": source.name}, {"model": Input(model)}, {"set": Folder(source.url)})
                for source in profile.evaluation
            ],
            by_slice=True,
        )


def _studies(profile: Profile) -> Iterator[Asset]:
    for study in profile.studies:
        yield _asset(
            AssetKey.of("study", study.name),
            f"Variants of {study.student}, each trained with every seed and evaluated on "
            f"{' and '.join(study.evaluate_on)}.",
            [_student_slice(profile, student, name) for name, student in profile.trials(study).items()],
            by_slice=True,
        )


def _student(profile: Profile, student: Student) -> Asset:
    if student.between:
        return _wise_ft(profile, student.name, student.between)
    if student.train:
        slice_ = _student_slice(profile, student, DEFAULT_SLICE)
        origin = "trained on the raw pairs" if student.data == "raw" else "distilled from the reinforced dataset"
        description = f"A small image-text model, {origin}."
    else:
        slice_ = Slice(DEFAULT_SLICE, {"model": declared(student.model)}, externals=_model_externals(student.model))
        description = "A small image-text model with pretrained weights."
    return _asset(AssetKey.of("student", student.name), description, [slice_])


def _student_slice(profile: Profile, student: Student, name: str) -> Slice:
    fields: dict[str, Any] = {
        "model": declared(student.model),
        "data": student.data,
        "train": declared(student.train),
    }
    if student.render != EARLIER_RENDERING:
        fields["render"] = declared(student.render)
    if student.sampling:
        fields["sampling"] = student.sampling
    inputs = {"base": Input(AssetKey.of("student", student.base))} if student.base else {}
    if augmentation := profile.augmentation(student):
        fields["augmentation"] = declared(augmentation)
    if student.data == "raw":
        inputs["data"] = Input(pairs_of(profile))
        inputs |= {f"corpus/{name}": Input(AssetKey.of("caption_corpus", name)) for name in student.corpora}
    else:
        fields["loss"] = declared(student.loss)
        datasets = profile.datasets_of(student)
        if datasets == (OWN,) and (chosen := student.loss.captioners) is not None:
            every = profile.dataset_captioners  # the same as None, and its order counts
            fields["loss"]["captioners"] = None if {*chosen} == {*every} else [name for name in every if name in chosen]
        del fields["loss"]["logit_scales"]  # replaced by the resolved scale of every teacher
        fields["logit_scales"] = profile.logit_scales(student)
        for dataset in datasets:
            if dataset == OWN:
                inputs["data"] = Input(REINFORCED_DATASET)
                if not profile.dataset.images:
                    inputs["raw_shards"] = Input(pairs_of(profile))
            else:
                inputs[f"reinforced/{dataset}"] = Input(AssetKey.of("reinforced_shards", dataset))
    externals = {**_model_externals(student.model), **_curve_sets(profile, student.evaluate_on)}
    return Slice(name, fields, inputs, externals)


def _wise_ft(profile: Profile, name: str, wise_ft: WiseFT) -> Asset:
    end = profile.student(wise_ft.to)
    fields: dict[str, Any] = {"weights": list(wise_ft.weights), "pick": declared(wise_ft.pick)}
    inputs = {"end": Input(AssetKey.of("student", end.name))}
    externals = _curve_sets(profile, wise_ft.pick.sets)
    if end.base:
        inputs["start"] = Input(AssetKey.of("student", end.base))
    else:
        fields["start"] = declared(end.model)
        externals |= _model_externals(end.model)
    return _asset(
        AssetKey.of("student", name),
        f"Weights interpolated between {end.base or 'the pretrained ones'} and {end.name}, picked by the rule of the profile.",
        [Slice(DEFAULT_SLICE, fields, inputs, externals)],
    )


def _curve_sets(profile: Profile, names: Sequence[str]) -> dict[str, External]:
    return {f"curve/{source.name}": Folder(source.url) for source in profile.evaluation if source.name in names}
