"""Fingerprints of real profiles depend on every declared field, and not on formats or paths."""

import json
import random
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from mobileclip2.config.profile import Profile, load, parse
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.fingerprint import canonical, declared_fields
from pipelines.profiles import PROFILES, profile_path


@pytest.fixture
def rich(tiny):
    """Return a profile with every kind of section."""
    values = json.loads(json.dumps(yaml.safe_load(tiny.read_text())))
    values |= {
        "filters": {"max_aspect": 9.0},
        "filtering": [{"name": "scores", "model": "teacher/wide"}, {"name": "others", "model": "teacher/narrow"}],
        "select": {"by": "scores", "keep": 0.5, "near_duplicates": 0.9, "decontaminate": ["shapes"]},
        "dataset": {"teachers": ["narrow", "wide"], "captioners": ["first", "second"], "storage": "npz"},
    }
    values["views"]["augmentation"] = {"scale": [0.3, 0.9]}
    pupil, plain = values["students"]
    pupil["loss"] = {"distill": 0.5, "captioners": ["second"], "logit_scales": {"wide": 44}}
    pupil["train"] |= {"warmup": 1, "evaluate_every": 2}
    plain |= {"corpora": ["clean"], "augmentation": {"scale": [0.5, 1.0]}}
    values["students"] += [
        {"name": "third", "base": "pupil", "data": "raw", "train": {**plain["train"], "accumulate": 2}},
        {"name": "middle", "between": {"to": "third", "pick": {"best": "again", "of": ["shapes"]}}},
        {"name": "given", "model": values["teachers"][1]["model"]},
    ]
    values["evaluation"].append({"name": "again", "url": "evaluation/shapes"})
    values["studies"] = [
        {"name": "rows", "student": "pupil", "evaluate_on": ["shapes"], "rows": [{"name": "a"}, {"name": "b"}]},
        {"name": "scales", "student": "pupil", "evaluate_on": ["shapes"], "scales": {"wide": [3, 4]}},
    ]
    tiny.write_text(yaml.safe_dump(values, sort_keys=False))
    return load(tiny)


def identities(profile):
    """Return the declared fields, inputs and external digests of every part."""
    pipeline = Pipeline(profile)
    return {
        (asset.key, part.name, group): canonical(
            {
                "declared": part.declared,
                "reads": {role: [source.asset, source.slice] for role, source in part.inputs.items()},
                "outside": {role: pipeline.inventory.digest(each, group) for role, each in part.externals.items()},
            }
        )
        for asset in pipeline.graph.values()
        for group in pipeline.groups(asset)
        for part in asset.slices_of(group).values()
    }


def rewritten(value, choose):
    """Return the same values with another key order and other number formats."""
    if isinstance(value, dict):
        keys = list(value)
        choose.shuffle(keys)
        return {key: rewritten(value[key], choose) for key in keys}
    if isinstance(value, list):
        return [rewritten(item, choose) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return choose.choice([value, float(value), int(value) if float(value).is_integer() else value])


@pytest.mark.parametrize("seed", range(5))
def test_key_order_and_number_formats_do_not_matter(rich, seed):
    values = rewritten(yaml.safe_load(rich.text), random.Random(seed))
    text = yaml.safe_dump(values, sort_keys=False)
    assert text != rich.text
    assert identities(Profile.model_validate({**values, "folder": rich.folder})) == identities(rich)


@pytest.mark.parametrize("name", sorted(path.stem for path in PROFILES.glob("*.yaml")))
def test_defaults_made_explicit_do_not_matter(name):
    profile = load(PROFILES / f"{name}.yaml")
    explicit = Profile.model_validate({**profile.model_dump(mode="json"), "folder": profile.folder})
    parts = [
        [
            canonical([asset.key, part.declared])
            for asset in Pipeline(each).graph.values()
            for part in asset.slices.values()
        ]
        for each in (profile, explicit)
    ]
    assert parts[0] == parts[1]


def test_naming_all_captioners_equals_the_default(rich):
    values = yaml.safe_load(rich.text)
    values["students"][0]["loss"]["captioners"] = ["second", "first"]
    named = Profile.model_validate({**values, "folder": rich.folder})
    del values["students"][0]["loss"]["captioners"]
    assert identities(Profile.model_validate({**values, "folder": rich.folder})) == identities(named)


def test_paths_of_inputs_do_not_matter(rich, tmp_path):
    before = identities(rich)
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "tiny").rename(elsewhere)
    for folder, moved in (("shards", "a/b"), ("corpus", "c"), ("evaluation", "d"), ("weights", "e")):
        (elsewhere / moved).parent.mkdir(exist_ok=True)
        (elsewhere / folder).rename(elsewhere / moved)
    text = rich.text.replace("url: shards", "url: a/b").replace("url: corpus", "url: c")
    text = text.replace("evaluation/shapes", "d/shapes").replace("weights/", "e/")
    assert identities(parse(text, origin=elsewhere / "profile.yaml")) == before


@pytest.mark.parametrize(
    ("one", "other"), [("0.001", "1e-3"), ("1000000", "1e6"), ("0.000001", "1E-6"), (".5", "5e-1")]
)
def test_yaml_number_formats_do_not_change_fingerprints(rich, one, other):
    """PyYAML parses 1e-3 as a string, and an open_clip configuration has no types to convert it back."""

    def reading(number):
        values = json.dumps(yaml.safe_load(rich.text)).replace('"patch_size": 16', f'"mlp_ratio": {number}')
        text = values.replace('"learning_rate": 0.001', f'"learning_rate": {number}')
        assert text.count(number) > 4
        return parse(text, origin=Path(rich.folder) / "profile.yaml")

    assert identities(reading(one)) == identities(reading(other))


def fields(settings, path=()):
    """Yield (path, declared) of every field, including defaults."""
    counting = declared_fields(type(settings))
    for name in type(settings).model_fields:
        yield from _below(getattr(settings, name), (*path, name), name in counting)


def _below(value, path, counts):
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for number, item in enumerate(value):
            yield from fields(item, (*path, number))
        return
    if counts and isinstance(value, BaseModel):
        yield from fields(value, path)
        return
    yield path, counts


CONVENTIONS = {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear"}


def others(value):
    """Yield other values for a field. Values that are more likely to be valid come first."""
    match value:
        case bool():
            yield not value
        case int() | float():
            yield from (value + 1, value - 1, value + 1e-4, value * 0.9, value * 2)
        case str():
            yield from (f"{value}x", "raw", "reinforced", "real", "synthetic", "npz", "pth.gz", "bf16")
            yield from ("bicubic", "model", "pixels", "scaled", "cpu")
            yield from (
                "raw_shards",
                "caption_corpus/clean",
                "pupil",
                "plain",
                "first",
                "shapes",
                "again",
                "./" + value,
            )
        case list():
            yield value[:-1]
            yield value[::-1]
            if value and isinstance(value[0], int | float):
                yield [*value, 5]
                yield from (
                    [item * 0.9 for item in value],
                    [value[0], *(item * 0.9 for item in value[1:-1]), value[-1]],
                )
        case dict():
            yield {**value, "embed_dim": 99}
            yield {"wide": 31} if value != {"wide": 31} else {}
            yield {**value, "ops": 1}
            yield {"student": 31}
        case None:
            yield from (
                1,
                2,
                7,
                0.5,
                ["first"],
                ["again"],
                "x",
                "quick_gelu",
                CONVENTIONS,
                {"path": "weights/wide.safetensors"},
            )


def changed(rich, path):
    """Return the profile with another valid value of one field, or None if there is no such value."""
    whole = rich.model_dump(mode="json")
    parent = whole
    for step in path[:-1]:
        parent = parent[step]
    before = parent[path[-1]]
    for candidate in others(before):
        if candidate == before:
            continue
        parent[path[-1]] = candidate
        try:
            return Profile.model_validate({**whole, "folder": rich.folder})
        except ValidationError:
            continue
    return None


FREE = {"name", "folder", "file", "text", "key_prefix"}
"""top-level fields that are not tested"""


ALONE = {
    *(
        "above",
        "augmentation",
        "between",
        "by",
        "file",
        "locked",
        "model",
        "open_clip",
        "package",
        "revision",
        "rows",
        "samples",
        "sampling",
        "scales",
        "small",
        "tag",
        "train",
    ),
    *("checks", "compute", "datasets", "gate", "of", "reinforced", "sha256", "tensorboard", "to"),
}
"""fields without another valid value if the rest of the profile is unchanged"""


def test_exactly_the_declared_fields_change_fingerprints(rich):
    before = identities(rich)
    without, wrong, compared = set(), [], []
    for path, counts in fields(rich):
        if path[0] in FREE or path[-1] == "pattern":  # the matching files are hashed, not the pattern
            continue
        other = changed(rich, path)
        if other is None:
            without.add(path[-1])
            continue
        compared.append(path[-1])
        try:
            after = identities(other)
        except UserError:  # the changed URL does not exist
            assert path[-1] in {"url", "path", "weights"}, path
            continue
        if (after != before) != counts:
            wrong.append(".".join(map(str, path)))
    assert not wrong, "\n".join(wrong)
    # other sections refer to the fields in ALONE, or the fields require a section that is absent
    assert len(compared) > 170
    assert without.difference(compared) == ALONE


@pytest.mark.parametrize("name", ["dfndr-12m", "dfndr-2b", "fine-tune"])
def test_recipes_of_the_paper_render_views_as_the_released_training_does(name):
    trained = [
        asset for asset in build_graph(load(profile_path(name))).values() if asset.stage == "student" and asset.trains
    ]
    assert trained
    for asset in trained:
        (slice_,) = asset.slices.values()
        assert slice_.declared["render"] == {"interpolation": "bicubic", "translation": "pixels"}


@pytest.mark.parametrize("name", ["demo", "ablation", "tiny"])
def test_small_students_keep_fingerprints_without_a_render_field(name):
    students = [
        asset for asset in build_graph(load(profile_path(name))).values() if asset.stage in ("student", "study")
    ]
    slices = [slice_ for asset in students for slice_ in asset.slices.values()]
    assert slices and not any("render" in slice_.declared for slice_ in slices)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data": "raw"}, {"scale": [0.9, 1.0], "randaugment": None}),
        ({"loss": {"distill": 0}}, {"scale": [0.9, 1.0], "randaugment": None}),
        ({"data": "raw", "augmentation": "views"}, {"scale": [0.3, 0.9]}),
        ({"data": "raw", "augmentation": {"scale": [0.5, 0.6]}}, {"scale": [0.5, 0.6]}),
        ({}, None),
    ],
)
def test_a_student_without_distillation_declares_its_own_augmentation(tiny, change, expected):
    values = yaml.safe_load(tiny.read_text())
    values["views"]["augmentation"] = {"scale": [0.3, 0.9]}
    values["students"][0] |= change
    tiny.write_text(yaml.safe_dump(values))
    graph = build_graph(load(tiny))
    (slice_,) = graph["student/pupil"].slices.values()
    found = slice_.declared.get("augmentation")
    assert found is None if expected is None else expected.items() <= found.items()


def test_the_graph_is_in_topological_order(rich, tiny):
    values = yaml.safe_load(tiny.read_text())
    values["teachers"].append({**values["teachers"][0], "name": "clean"})
    locked = {
        "trunk": "tf_efficientnet_lite0",
        "trunk_weights": {"package": "p", "file": "f", "sha256": "0" * 64},
        "text": "owner/name",
        "train_on": ["caption_corpus/clean"],
        "train": {"steps": 1, "batch": 2, "learning_rate": 1e-3},
    }
    values["teachers"].append({"name": "of_a_corpus", "logit_scale": 50, "locked": locked})
    values |= {
        "filtering": [{"name": "scores", "model": "teacher/of_a_corpus"}],
        "select": {"by": "scores", "keep": 0.5},
    }
    filtered = parse(yaml.safe_dump(values), origin=tiny)
    for profile in (
        rich,
        filtered,
        *(load(profile_path(name)) for name in ("demo", "dfndr-2b", "fine-tune", "ablation")),
    ):
        seen = set()
        for key, asset in build_graph(profile).items():
            assert seen.issuperset(asset.upstream), key
            seen.add(key)
