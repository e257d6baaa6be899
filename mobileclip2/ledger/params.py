"""The fields of a profile that each asset declares. Fields that reach it through its inputs are not included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from mobileclip2.config.profile import Profile
from mobileclip2.config.read_yaml import parse_yaml
from mobileclip2.config.sources import OWN
from mobileclip2.engine.graph import Asset
from mobileclip2.fingerprint import declared, declared_fields

Path = tuple[str | int, ...]
"""path of a field, such as ``("teachers", 1, "logit_scale")``"""


def params(profile: Profile, asset: Asset) -> list[str]:
    """Return the fields in the profile's file that the asset declares, for example ``teachers.1.logit_scale``.

    A mapping whose fields are all declared is returned as one field, so that a field that is added later is included.
    """
    written = parse_yaml(profile.text, profile.file)
    fields = [field for path in _declared_by(profile, asset) for field in _declared_within(profile, written, path)]
    return [".".join(map(str, path)) for path in dict.fromkeys(fields)]


def declared_by_name(profile: Profile) -> dict[str, Any]:
    """Return all declared fields of a profile with their defaults. Items of lists have their names as keys."""
    fields: dict[str, Any] = _by_name(declared(profile))
    fields["dataset"] |= {"teachers": list(profile.dataset_teachers), "captioners": list(profile.dataset_captioners)}
    return fields


def _by_name(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _by_name(item) for key, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return {item["name"]: _by_name({key: field for key, field in item.items() if key != "name"}) for item in value}
    return value


def _declared_by(profile: Profile, asset: Asset) -> Iterator[Path]:
    """Yield the paths that an asset declares, as in :mod:`mobileclip2.engine.graph`. A test compares both for every field."""

    def path_to(field: str, name: str) -> Path:
        return field, [item.name for item in getattr(profile, field)].index(name)

    def fields_of(section: str, name: str, *fields: str) -> list[Path]:
        return [(*path_to(section, name), field) for field in fields]

    def names(field: str) -> list[Path]:
        return [(field, number, "name") for number in range(len(getattr(profile, field)))]

    match asset.stage:
        case "raw_shards":
            yield from (("groups",), ("filters",))
            yield from (("sources", number) for number in range(len(profile.sources)))
        case "filter_scores":
            yield path_to("filtering", asset.name)
        case "selection":
            assert profile.select is not None
            fields = ["by", "keep", "above", "near_duplicates", "decontaminate"]
            yield (*path_to("filtering", profile.select.by), "name")
            if profile.select.decontaminate:
                fields.append("contaminated_above")
                yield (*path_to("filtering", profile.select.by), "model")
            yield from (("select", field) for field in fields)
        case "augmentations":
            yield ("views",)
        case "caption_corpus":
            yield from (("filters",), path_to("caption_corpora", asset.name))
        case "captioner":
            yield from fields_of("captioners", asset.name, "name", "base", "model", "small", "train_on", "train")
            # the fingerprint has only the content of pinned weights, not their location
            yield (*path_to("captioners", asset.name), "trunk_weights", "sha256")
        case "synthetic_captions":
            yield from fields_of("captioners", asset.name, "name", "captions", "generation")
        case "teacher":
            yield from fields_of("teachers", asset.name, "name", "model", "locked")
        case "teacher_embeddings":
            yield (*path_to("teachers", asset.name), "name")
            kind = asset.key.kind
            if kind == "image":
                yield "views", "count"
            elif kind != "text":
                yield from fields_of("captioners", kind, "name", "captions")
        case "reinforced_dataset":
            yield ("dataset",)
            for field in ("teachers", "captioners"):
                if getattr(profile.dataset, field) is None:
                    yield from names(field)
        case "reinforced_shards":
            source = path_to("reinforced", asset.name)
            yield from (("groups",), ("filters",))
            yield from fields_of("reinforced", asset.name, "name", "pattern", "images")
            for number in range(len(profile.reinforced_shards(asset.name).teachers)):
                yield from ((*source, "teachers", number, field) for field in ("name", "dim"))
        case "student":
            yield from _declared_by_student(profile, path_to("students", asset.name))
        case "evaluation":
            students = [student.name for student in profile.students]
            yield (*path_to("students" if asset.name in students else "teachers", asset.name), "name")
            yield from names("evaluation")


def _declared_by_student(profile: Profile, path: Path) -> Iterator[Path]:
    student = profile.students[int(path[1])]
    if student.between:
        end = [each.name for each in profile.students].index(student.between.to)
        yield from ((*path, "name"), (*path, "between"), ("students", end, "base"), ("students", end, "model"))
        return
    for field in ("name", "base", "model", "data", "corpora", "augmentation", "render", "train", "evaluate_on"):
        yield (*path, field)
    if not student.train:
        return
    if student.augmentation == "views":
        yield "views", "augmentation"
    if student.data == "raw":
        return
    yield from ((*path, "loss"), (*path, "datasets"))
    datasets = profile.datasets_of(student)
    if OWN in datasets:
        yield from (("dataset", "teachers"), ("dataset", "images"))
        for number, teacher in enumerate(profile.teachers):
            if teacher.name in profile.dataset_teachers:
                yield "teachers", number, "logit_scale"
    for number, source in enumerate(profile.reinforced):
        if source.name in datasets:
            yield from (("reinforced", number, "teachers", each, "logit_scale") for each in range(len(source.teachers)))


def _declared_within(profile: Profile, written: Any, path: Path) -> Iterator[Path]:
    """Split a path until it contains no undeclared field. Skip fields that are not in the file."""
    settings: Any = profile
    for step in path:
        settings = settings[step] if isinstance(step, int) else getattr(settings, step)
        if isinstance(written, dict) and step not in written:
            return
        written = written[step]
    yield from _split(settings, written, path)


def _split(settings: Any, written: Any, path: Path) -> Iterator[Path]:
    if not (isinstance(written, dict) and _has_undeclared(settings)):
        yield path
        return
    for name in declared_fields(type(settings)):
        if name in written:
            yield from _split(getattr(settings, name), written[name], (*path, name))


def _has_undeclared(settings: Any) -> bool:
    if not isinstance(settings, BaseModel):
        return False
    names = declared_fields(type(settings))
    return len(names) < len(type(settings).model_fields) or any(_has_undeclared(getattr(settings, n)) for n in names)
