"""Every URL and path of a profile is local or ``s3://``. A message never repeats a secret."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from mobileclip2.config.location import Locations, expand
from mobileclip2.config.profile import Profile, parse
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import ProfileError
from mobileclip2.report.gather import gather

PROFILE = """
name: places
store: store
sources: [{url: shards}]
caption_corpora: [{name: clean, url: corpus}]
evaluation: [{name: shapes, url: shapes}]
students:
  - {name: given, model: {open_clip: MobileCLIP2-S0, weights: {path: weights.pt}}}
gate: {baseline: given}
ledger: ledger
"""

FIELDS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "store": lambda values, url: values.update(store=url),
    "sources.0.url": lambda values, url: values["sources"][0].update(url=url),
    "caption_corpora.0.url": lambda values, url: values["caption_corpora"][0].update(url=url),
    "evaluation.0.url": lambda values, url: values["evaluation"][0].update(url=url),
    "students.0.model.weights.path": lambda values, url: values["students"][0]["model"]["weights"].update(path=url),
    "gate.baseline": lambda values, url: values["gate"].update(baseline=url),
    "ledger": lambda values, url: values.update(ledger=url),
}


def placed(field: str, url: str) -> Profile:
    values = yaml.safe_load(PROFILE)
    FIELDS[field](values, url)
    return parse(yaml.safe_dump(values), origin=Path("/profiles/places.yaml"))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "url",
    ["gs://bucket/x", "https://host/x", "file:///data/x", "S3://bucket/x", "s3:/bucket/x", "s3a://bucket/x", "a\nb"],
)
def test_an_unknown_scheme_is_refused_in_every_field(field: str, url: str) -> None:
    with pytest.raises(ProfileError, match=rf"\n  {field}: "):
        placed(field, url)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "url",
    [
        "s3://me:hunter2@bucket/x",
        "s3://hunter2@bucket/x",
        "https://me:hunter2@host/x",
        "s3://bucket/x?X-Amz-Signature=hunter2",
        "me:hunter2@host/x://",
    ],
)
def test_a_secret_is_refused_and_not_repeated(field: str, url: str) -> None:
    with pytest.raises(ProfileError, match=rf"\n  {field}: ") as error:
        placed(field, url)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter2@host/",
        "http://host/?token=hunter2",
        "javascript:hunter2",
        "//hunter2",
        "http://",
        "http://a\nb/",
    ],
)
def test_an_invalid_page_address_is_rejected_without_its_secret(address: str) -> None:
    with pytest.raises(ProfileError, match="not the address of a page") as error:
        parse(yaml.safe_dump({**yaml.safe_load(PROFILE), "tensorboard": address}), origin=Path("/profiles/places.yaml"))
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["gs:bucket", "s3:", "s3://", "s3:///x", "s3://bucket/../other", "s3://b//x", "", " ", "~/x", "$DATA"]
)
def test_malformed_urls_are_rejected(url: str) -> None:
    with pytest.raises(ProfileError, match=r"\n  sources\.0\.url: "):
        placed("sources.0.url", url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("shards", "/profiles/shards"),
        ("../a b", "/a b"),
        ("./gs:bucket", "/profiles/gs:bucket"),
        ("/data/caf\u00e9", "/data/caf\u00e9"),
        ("s3://my-bucket/a/b@c", "s3://my-bucket/a/b@c"),
        ("s3://my-bucket", "s3://my-bucket"),
    ],
)
def test_valid_locations_resolve_to_paths(url: str, path: str) -> None:
    profile = placed("sources.0.url", url)
    assert profile.locate(profile.sources[0].url) == path


@pytest.mark.parametrize("baseline", ["given", "results.jsonl", "origin/main", "HEAD~2", "main@{yesterday}", "v1.0^{}"])
def test_valid_baselines_are_accepted(baseline: str) -> None:
    assert placed("gate.baseline", baseline).gate.baseline == baseline


@pytest.mark.parametrize("number", [".inf", ".nan", "1e400", "-.inf"])
def test_a_number_that_is_not_finite_is_rejected(number: str) -> None:
    with pytest.raises(ProfileError, match=r"line 11.*not finite"):
        parse(PROFILE + f"rates: {{raw_shards: {number}}}\n", origin=Path("places.yaml"))


def test_environment_values_are_redacted_outside_the_profile(tmp_path: Path) -> None:
    for name in ("weights.pt", "shards/0.tar", "corpus/0.tar", "shapes/0.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    template = "pod_template: {spec: {containers: [{name: work, env: [{name: KEY, value: hunter2}]}]}}"
    stages = f"stages: {{student: {{{template}}}}}"
    compute = f"compute: {{kubernetes: {{image: i, env: {{TOKEN: hunter2}}, {template}, {stages}}}}}\n"
    pipeline = Pipeline(parse(PROFILE + compute, origin=tmp_path / "places.yaml"))
    assert pipeline.profile.compute.kubernetes is not None
    assert pipeline.profile.compute.kubernetes.env == {"TOKEN": "hunter2"}
    assert "hunter2" not in pipeline.lock_payload + repr(pipeline.profile.compute) + gather(pipeline).profile
    shown = parse(json.loads(pipeline.lock_payload)["text"], origin=tmp_path / "places.yaml")
    assert build_graph(shown) == build_graph(pipeline.profile)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("a/b", ["a/b"]),
        ("{00..02}.tar", ["00.tar", "01.tar", "02.tar"]),
        ("s3://b/{x,y}/{1..2}", ["s3://b/x/1", "s3://b/x/2", "s3://b/y/1", "s3://b/y/2"]),
        (("a", "{b,c}"), ["a", "b", "c"]),
        ("{a..c}", ["a", "b", "c"]),
        ("a{b}c", ["a{b}c"]),
    ],
)
def test_braces_are_expanded_in_order(url: str | tuple[str, ...], found: list[str]) -> None:
    assert expand(url) == found
    assert TypeAdapter(Locations).validate_python(url) == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{0..99999999999999999999}.tar", "at most 100,000"),
        ("{0..999}{0..999}", "stand for 1,000,000 locations"),
        ("{0..1000000000}", "at most 100,000"),
        ("{a,{b,c}}", "nested or unbalanced"),
        ("a{b", "nested or unbalanced"),
        ("{s3,https}://b/x", "scheme of this URL is not supported"),
        ((), "the list is empty"),
        (("a", "s3://key:secret@b/x"), "contains a password or key"),
    ],
)
def test_braces_have_limits_and_each_location_is_checked(url: str | tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Locations).validate_python(url)
