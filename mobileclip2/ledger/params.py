"""Which fields of a profile belong to which asset: those that it declares itself, what comes by its inputs left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset
from mobileclip2.fingerprint import declared, declared_fields

Path = tuple[str | int, ...]
"""of a field: ``("teachers", 1, "logit_scale")``"""


def params(profile: Profile, asset: Asset) -> list[str]:
    """Return the fields that the profile's file writes and the asset declares, for example ``teachers.1.logit_scale``.

    A mapping in which every field counts stands whole, so that a field added to it is seen as well.
    """
    written = yaml.safe_load(profile.text)
    found = [leaf for path in _declared_by(profile, asset) for leaf in _counting(profile, written, path)]
    return [".".join(map(str, path)) for path in dict.fromkeys(found)]


def declared_by_name(profile: Profile) -> dict[str, Any]:
    """Every declared field of a profile, defaults too, with names in place of positions: what two commits compare."""
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
    """Mirrors :mod:`mobileclip2.engine.graph`; a test changes every field of a profile and compares."""

    def place(field: str, name: str) -> Path:
        return field, [thing.name for thing in getattr(profile, field)].index(name)

    def names(field: str) -> list[Path]:
        return [(field, number, "name") for number in range(len(getattr(profile, field)))]

    match asset.stage:
        case "raw_shards":
            yield from (("groups",), ("filters",))
            yield from (("sources", number) for number in range(len(profile.sources)))
        case "augmentations":
            yield ("views",)
        case "caption_corpus":
            yield from (("filters",), place("caption_corpora", asset.name))
        case "captioner":
            captioner = place("captioners", asset.name)
            for field in ("name", "base", "model", "small", "train_on", "train"):
                yield (*captioner, field)
            # of pinned weights only the content counts, wherever it comes from
            yield (*captioner, "trunk_weights", "sha256")
        case "synthetic_captions":
            captioner = place("captioners", asset.name)
            yield from ((*captioner, field) for field in ("name", "captions", "generation"))
        case "teacher":
            teacher = place("teachers", asset.name)
            yield from ((*teacher, field) for field in ("name", "model", "locked"))
        case "teacher_embeddings":
            yield (*place("teachers", asset.name), "name")
            kind = asset.key.rpartition("/")[2]
            if kind == "image":
                yield "views", "count"
            elif kind != "text":
                captioner = place("captioners", kind)
                yield from ((*captioner, field) for field in ("name", "captions"))
        case "reinforced_dataset":
            yield ("dataset",)
            for field in ("teachers", "captioners"):
                if getattr(profile.dataset, field) is None:
                    yield from names(field)
        case "student":
            yield from _declared_by_student(profile, place("students", asset.name))
        case "evaluation":
            students = [student.name for student in profile.students]
            yield (*place("students" if asset.name in students else "teachers", asset.name), "name")
            yield from names("evaluation")


def _declared_by_student(profile: Profile, place: Path) -> Iterator[Path]:
    student = profile.students[int(place[1])]
    if student.between:
        end = [each.name for each in profile.students].index(student.between.to)
        yield from ((*place, "name"), (*place, "between"), ("students", end, "base"), ("students", end, "model"))
        return
    for field in ("name", "base", "model", "data", "train", "evaluate_on"):
        yield (*place, field)
    if not student.train:
        return
    if student.data == "raw":
        yield "views", "augmentation"
        return
    yield (*place, "loss")
    yield from (("dataset", "teachers"), ("dataset", "images"))
    for number, teacher in enumerate(profile.teachers):
        if teacher.name in profile.dataset_teachers:
            yield "teachers", number, "logit_scale"


def _counting(profile: Profile, written: Any, path: Path) -> Iterator[Path]:
    """Divide a path until it contains no undeclared field. Skip what the file does not write."""
    settings: Any = profile
    for step in path:
        settings = settings[step] if isinstance(step, int) else getattr(settings, step)
        if isinstance(written, dict) and step not in written:
            return
        written = written[step]
    yield from _divided(settings, written, path)


def _divided(settings: Any, written: Any, path: Path) -> Iterator[Path]:
    if not (isinstance(written, dict) and _holds_undeclared(settings)):
        yield path
        return
    for name in declared_fields(type(settings)):
        if name in written:
            yield from _divided(getattr(settings, name), written[name], (*path, name))


def _holds_undeclared(settings: Any) -> bool:
    if not isinstance(settings, BaseModel):
        return False
    names = declared_fields(type(settings))
    return len(names) < len(type(settings).model_fields) or any(_holds_undeclared(getattr(settings, n)) for n in names)
