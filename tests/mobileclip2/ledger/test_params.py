"""The fields of each stage. The tests change every field of a profile in turn and compare the graphs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mobileclip2.config.profile import Profile, load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.ledger.params import declared_by_name, params
from pipelines.profiles import profile_path
from tests.filtered import make_filtered

Leaf = tuple[str | int, ...]


def leaves(value: Any, path: Leaf = ()) -> Iterator[Leaf]:
    """Yield the paths of all scalars and lists of scalars."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from leaves(item, (*path, number))
    else:
        yield path


def others(value: Any, names: list[str]) -> Iterator[Any]:
    """Yield values to try in place of ``value``."""
    match value:
        case bool():
            yield not value
        case int() | float():
            yield from (value + 1, value - 1, value * 0.9, value * 2)
        case list() if value and isinstance(value[0], str):
            yield value[::-1]
            yield from ([name] for name in names)
        case list():
            yield [item * 0.9 for item in value]
            yield [value[0] * 0.9, *value[1:]]
        case str():
            yield f"{value}x"
            yield value[::-1]
            yield from ("raw", "reinforced", "real", "npz", "pth.gz", "raw_shards", *names)
            yield from ("bicubic", "model", "pixels", "scaled", "auto")
        case dict() | None:
            yield {"raw_shards": 5.0}


def changed(written: str, folder: str, leaf: Leaf) -> Profile | None:
    """Return the profile with another value at a leaf, or None if no other value is valid."""
    fresh = json.loads(written)
    parent = fresh
    for step in leaf[:-1]:
        parent = parent[step]
    before = parent[leaf[-1]]
    if leaf[-1] in {"url", "path", "store", "ledger"}:
        candidates: Iterator[Any] = iter([f"./{before}"])  # another path with the same content
    else:
        corpora = [f"caption_corpus/{corpus['name']}" for corpus in fresh["caption_corpora"]]
        sets = [each["name"] for each in fresh["evaluation"]]
        names = [each["name"] for each in (*fresh["captioners"], *fresh["teachers"], *fresh["students"])]
        candidates = others(before, [*corpora, *sets, *names])
    for candidate in candidates:
        if candidate == before:
            continue
        parent[leaf[-1]] = candidate
        try:
            return Profile.model_validate({**fresh, "folder": folder})
        except ValidationError:
            continue
    return None


def declarations(profile: Profile) -> dict[str, Any]:
    """Return the declarations of each asset, by slice and group. Inputs from other assets appear only by name."""
    pipeline = Pipeline(profile)

    def digest(external: Any, group: str | None) -> str:
        try:
            return pipeline.inventory.digest(external, group)
        except UserError as error:
            return str(error)

    return {
        asset.key: {
            part.name: (
                part.declared,
                part.inputs,
                {role: [digest(e, group) for group in pipeline.groups(asset)] for role, e in part.externals.items()},
            )
            for part in asset.slices.values()
        }
        for asset in pipeline.graph.values()
    }


def check_every_leaf(path: Path) -> tuple[list[str], int]:
    """Compare each leaf. Return the leaves without another valid value, and the number of compared leaves."""
    profile = load(path)
    graph = Pipeline(profile).graph
    listed = {key: params(profile, asset) for key, asset in graph.items()}
    before = declarations(profile)
    without, compared = [], 0
    written = json.dumps(yaml.safe_load(profile.text))  # as JSON, because YAML anchors put one object in several places
    for leaf in leaves(json.loads(written)):
        name = ".".join(map(str, leaf))
        other = changed(written, profile.folder, leaf)
        if other is None:
            without.append(name)
            continue
        after = declarations(other)
        touched = {key for key in before if key in after and before[key] != after[key]}
        if leaf[-1] == "name":
            touched |= before.keys() - after.keys()
        naming = {key for key, fields in listed.items() if any(f"{name}.".startswith(f"{each}.") for each in fields)}
        assert naming == touched, name
        compared += 1
    return without, compared


def test_params_cover_every_field_of_the_demo(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path))
    without, compared = check_every_leaf(profile_path("demo"))
    # names that other fields refer to
    assert without == [
        "caption_corpora.0.name",
        "captioners.0.name",
        "captioners.1.name",
        "captioners.1.base",
        "evaluation.0.name",
    ]
    assert compared > 80


def test_params_cover_every_field_of_a_selection(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    profile = make_filtered(tmp_path, keep=0.5, near_duplicates=0.9, decontaminate=["shapes"], contaminated_above=0.9)
    without, compared = check_every_leaf(profile)
    assert not [name for name in without if name.startswith("select.keep")]
    assert compared > 80


def test_params_cover_every_field_of_a_full_profile(tiny):
    values = json.loads(json.dumps(yaml.safe_load(tiny.read_text())))
    values |= {
        "filters": {"min_side": 2, "max_aspect": 9.0},
        "dataset": {"teachers": ["narrow", "wide"], "captioners": ["second"], "storage": "npz", "images": True},
        "device": "cpu",
        "batch": 8,
        "rates": {},
    }
    values["sources"][0]["pattern"] = values["caption_corpora"][0]["pattern"] = "*.tar"
    values["views"]["augmentation"] = {"scale": [0.3, 0.9], "randaugment": {"ops": 1, "magnitude": 3, "bins": 31}}
    pupil, plain = values["students"]
    pupil["loss"] = {"distill": 0.5, "captions": "both", "captioners": ["second"]}
    pupil["train"] |= {"workers": 1, "log_every": 5, "betas": [0.9, 0.95], "seed": 4}
    given = {"name": "given", "model": values["teachers"][1]["model"]}
    pick = {"best": "again", "of": ["shapes"], "within": 0.02}
    values["students"] += [
        {"name": "third", "base": "pupil", "data": "raw", "train": plain["train"]},
        {"name": "to_third", "between": {"to": "third", "weights": [0, 0.5, 1], "pick": pick}},
        given,
        {**given, "name": "fourth", "data": "raw", "train": plain["train"]},
        {"name": "to_fourth", "between": {"to": "fourth", "pick": pick}},
    ]
    values["evaluation"].append({"name": "again", "url": "evaluation/shapes"})
    tiny.write_text(yaml.safe_dump(values, sort_keys=False))
    without, compared = check_every_leaf(tiny)
    # names that other fields refer to, references without another valid name, and curves, which keep both their ends
    assert {name.rpartition(".")[2] for name in without} <= {"name", "captioners", "base", "to", "weights"}
    assert compared > 100


def test_params_leave_out_the_path_of_weights(tiny):
    teacher = Pipeline(load(tiny)).graph["teacher/wide"]
    assert params(load(tiny), teacher) == ["teachers.0.name", "teachers.0.model.config"]


def test_declared_fields_are_keyed_by_name():
    profile = load(profile_path("demo"))
    fields = declared_by_name(profile)
    assert fields["teachers"]["lite2"]["logit_scale"] == profile.teacher("lite2").logit_scale
    assert fields["students"]["plain"]["train"]["seed"] == 0
    assert fields["dataset"]["teachers"] == ["lite0", "lite2"]
    assert not {"store", "device", "ledger"} & set(fields) and "workers" not in fields["students"]["plain"]["train"]
