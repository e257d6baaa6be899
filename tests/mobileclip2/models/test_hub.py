"""Test published models with a local hub server: names, commits, refusals, interrupted downloads and no network."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from mobileclip2.config.model import Model
from mobileclip2.config.profile import load as load_profile
from mobileclip2.engine.hub_commits import FOLDER
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import WeightsError
from mobileclip2.models import hub as hub_module
from mobileclip2.models.build import CONFIG, WEIGHTS, build, from_config, save
from mobileclip2.stages.published_weights import check_published_weights
from tests.hub import Hub, point_to, serving
from tests.mobileclip2.models.small_towers import write

ROOT = Path(__file__).parents[3]
NAME = "hf-hub:somebody/some-model"
REPOSITORY = "somebody/some-model"
TINY = {
    "embed_dim": 8,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path / "cache") as served:
        yield served


@pytest.fixture
def profile(tiny):
    values = yaml.safe_load(tiny.read_text())
    values["teachers"][0]["model"] = {"open_clip": NAME}
    tiny.write_text(yaml.safe_dump(values, sort_keys=False))
    return tiny


def tiny_files(folder, seed=0, config=None):
    """Return the files of a small model by their names in a repository."""
    torch.manual_seed(seed)
    save(from_config({"model_cfg": config or TINY, "preprocess_cfg": {"interpolation": "bilinear"}}), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check(profile):
    pipeline = Pipeline(load_profile(profile))
    return check_published_weights(pipeline, list(pipeline.graph))


def refusal(profile):
    with pytest.raises(WeightsError) as caught:
        check(profile)
    message = str(caught.value)
    assert message.startswith(f"teachers.wide.model.open_clip: the weights {NAME} "), message
    assert len(message.splitlines()) == 1
    return message


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_model_of_the_hub_is_built_from_its_commit(hub, tmp_path):
    first = hub.push(REPOSITORY, tiny_files(tmp_path / "one"))
    second = hub.push(REPOSITORY, tiny_files(tmp_path / "two", seed=1))
    image = torch.rand(1, 3, 32, 32)
    newest, pinned, recorded = (
        build(Model(open_clip=NAME)),
        build(Model(open_clip=NAME, revision=first)),
        build(Model(open_clip=NAME), commits={REPOSITORY: first}),
    )
    assert newest.preprocess.interpolation == "bilinear"
    assert torch.equal(pinned.embed_images(image), recorded.embed_images(image))
    assert not torch.equal(newest.embed_images(image), pinned.embed_images(image))
    files = pinned.provenance["hub_files"]
    assert set(files) == {f"{REPOSITORY}@{first}/{name}" for name in (CONFIG, WEIGHTS)}
    assert all(len(digest) == 64 for digest in files.values())
    assert set(newest.provenance["hub_files"]) == {f"{REPOSITORY}@{second}/{name}" for name in (CONFIG, WEIGHTS)}


def test_a_tag_is_built_from_the_hub(hub, tmp_path):
    torch.manual_seed(0)
    released = build(Model(open_clip="MobileCLIP2-S0"))
    save(released, tmp_path / "released")
    hub.push_folder("timm/MobileCLIP2-S0-OpenCLIP", tmp_path / "released")
    model = build(Model(open_clip="MobileCLIP2-S0", weights={"tag": "dfndr2b"}), seed=9)
    assert model.preprocess == released.preprocess and model.preprocess.std == (1.0, 1.0, 1.0)
    texts = ["a cat", "a dog"]
    assert torch.equal(model.embed_texts(texts), released.embed_texts(texts))
    with pytest.raises(WeightsError, match=r"MobileCLIP2-S0 'dfndr2b' has sha256 \w{64}, the profile pins 0000"):
        build(Model(open_clip="MobileCLIP2-S0", weights={"tag": "dfndr2b", "sha256": "0" * 64}))


def test_the_tokenizer_of_another_repository_is_part_of_the_model(hub, tmp_path):
    config = write("SigLIP", tmp_path / "tokenizer", "somebody/tokenizer")
    tokenizer = hub.push_folder("somebody/tokenizer", tmp_path / "tokenizer")
    given = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
    torch.manual_seed(0)
    save(from_config({"model_cfg": config}, given), tmp_path / "model")
    only = {name: (tmp_path / "model" / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    commit = hub.push(REPOSITORY, only)
    model = build(Model(open_clip=NAME))
    assert model.tokenizer_files == given
    origins = {name.rpartition("/")[0] for name in model.provenance["hub_files"]}
    assert origins == {f"{REPOSITORY}@{commit}", f"somebody/tokenizer@{tokenizer}"}
    found = hub_module.find(Model(open_clip=NAME), "teachers.a.model", {})
    assert found.commits == {REPOSITORY: commit, "somebody/tokenizer": tokenizer}


def test_a_missing_tokenizer_is_reported_before_the_run(hub, tmp_path, monkeypatch):
    model = Model(config=write("SigLIP", tmp_path / "tokenizer", "somebody/tokenizer"))
    with pytest.raises(
        WeightsError, match=r"students\.a\.model: the files of the tokenizer somebody/tokenizer cannot be"
    ):
        hub_module.find(model, "students.a.model", {})
    point_to(monkeypatch, hub.url, tmp_path / "cache", offline=True)
    with pytest.raises(
        WeightsError, match=r"tokenizer somebody/tokenizer are not on .*OFFLINE is set. Connect.*HF_HOME"
    ):
        hub_module.find(model, "students.a.model", {})
    with pytest.raises(WeightsError, match="the files of the tokenizer somebody/tokenizer are not on this machine"):
        build(model)


def test_the_commit_is_recorded_once_and_a_moved_name_is_reported(hub, profile, tmp_path, caplog):
    first = hub.push(REPOSITORY, tiny_files(tmp_path / "one"))
    assert check(profile) == {"teachers.wide.model": {REPOSITORY: first}}
    second = hub.push(REPOSITORY, tiny_files(tmp_path / "two", seed=1))
    assert check(profile) == {"teachers.wide.model": {REPOSITORY: first}}
    assert f"has moved from the commit {first} to {second}" in caplog.text
    (record,) = (profile.parent / "store" / FOLDER).iterdir()
    assert json.loads(record.read_text()) == {
        "weights": REPOSITORY,
        "revision": None,
        "commits": {REPOSITORY: first},
    }
    text = profile.read_text().replace(f"open_clip: {NAME}", f"open_clip: {NAME}\n    revision: '{second}'")
    profile.write_text(text)
    caplog.clear()
    assert check(profile) == {"teachers.wide.model": {REPOSITORY: second}}
    assert not caplog.text


def test_the_commit_is_part_of_the_identity_and_of_the_manifest(hub, profile, tmp_path, caplog):
    first = hub.push(REPOSITORY, tiny_files(tmp_path / "one"))
    pipeline = Pipeline(load_profile(profile))
    assert pipeline.missing(pipeline.graph["teacher/wide"], None) and not hub.asked  # planning sends no request
    done = pipeline.materialize("teacher/wide")
    (stored,) = pipeline.read("teacher/wide")
    assert stored.manifest.inputs == {"hub": f"{REPOSITORY}@{first}"}
    assert f"{REPOSITORY}@{first}/{WEIGHTS}" in stored.manifest.facts["hub_files"]
    second = hub.push(REPOSITORY, tiny_files(tmp_path / "two", seed=1))
    again = Pipeline(load_profile(profile))
    assert not again.missing(again.graph["teacher/wide"], None)
    assert check_published_weights(again, list(again.graph)) == {} and not caplog.text
    found = check_published_weights(again, list(again.graph), stored=True)
    assert found == {"teachers.wide.model": {REPOSITORY: first}} and f"to {second}" in caplog.text
    hub.status = 503
    assert check_published_weights(again, list(again.graph), stored=True) == found  # the store has all the files
    hub.status = 200
    profile.write_text(
        profile.read_text().replace(f"open_clip: {NAME}", f"open_clip: {NAME}\n    revision: '{second}'")
    )
    changed = Pipeline(load_profile(profile))
    assert changed.missing(changed.graph["teacher/wide"], None)
    assert changed.materialize("teacher/wide").data_version != done.data_version


def test_a_refused_hub_connection_is_reported(profile, monkeypatch, tmp_path):
    endpoint = closed_port()
    point_to(monkeypatch, endpoint, tmp_path / "cache")
    message = refusal(profile)
    assert f"{endpoint} cannot be reached (ConnectError" in message
    assert "HF_HOME" in message and "'weights: {path: ...}'" in message


def test_a_hub_timeout_is_reported(profile, monkeypatch, tmp_path):
    monkeypatch.setattr(hub_module, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts the connection and never answers
        point_to(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path / "cache")
        assert "cannot be reached (ReadTimeout" in refusal(profile)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, "does not show this repository"),
        (404, "does not show this repository"),
        (429, "answers HTTP 429"),
        (503, "answers HTTP 503"),
    ],
)
def test_an_http_error_of_the_hub_is_reported(profile, hub, status, expected):
    hub.status = status
    assert expected in refusal(profile) and len(hub.asked) == 1  # no retries that take minutes


def test_a_private_or_misspelled_repository_is_reported(profile, hub):
    assert "does not show this repository" in refusal(profile)


def test_an_unknown_commit_is_reported(hub, tmp_path):
    hub.push(REPOSITORY, tiny_files(tmp_path / "one"))
    with pytest.raises(WeightsError, match=r"does not have this commit\. Correct 'revision', or remove it"):
        hub_module.find(Model(open_clip=NAME, revision="0" * 40), "teachers.a.model", {})


def test_a_repository_in_another_layout_is_reported(profile, hub):
    hub.push(REPOSITORY, {"model.safetensors": b"", "config.json": b"{}"})
    assert f"lists none of {', '.join(hub_module.WEIGHTS)} in {REPOSITORY}" in refusal(profile)


def test_an_interrupted_download_continues(hub, tmp_path):
    hub.push(REPOSITORY, tiny_files(tmp_path / "one"))
    hub.cuts = 2
    assert build(Model(open_clip=NAME)).embed_dim == 8
    assert sum("GET" in each and "resolve" in each for each in hub.asked) == 4 and hub.cuts == 0


def test_without_a_network_the_cache_is_enough(profile, hub, monkeypatch, tmp_path):
    point_to(monkeypatch, hub.url, tmp_path / "cache", offline=True)
    assert "HF_HUB_OFFLINE is set" in refusal(profile) and not hub.asked
    point_to(monkeypatch, hub.url, tmp_path / "cache")
    commit = hub.push(REPOSITORY, tiny_files(tmp_path / "one"))
    expected = build(Model(open_clip=NAME)).embed_texts(["a cat"])
    for url, offline in ((hub.url, True), (closed_port(), False)):
        point_to(monkeypatch, url, tmp_path / "cache", offline=offline)
        assert check(profile) == {"teachers.wide.model": {REPOSITORY: commit}}
        assert torch.equal(build(Model(open_clip=NAME)).embed_texts(["a cat"]), expected)


@pytest.mark.slow
def test_check_and_run_fail_before_the_first_stage(profile, hub, tmp_path):
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    own["DAGSTER_HOME"] = str(tmp_path / "dagster")
    for command in ("check", "run"):
        started = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", command, "--profile", str(profile)],
            cwd=ROOT,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
        )
        message = run.stderr.removeprefix("mobileclip2: ").strip()
        assert run.returncode == 1 and message.startswith(f"teachers.wide.model.open_clip: the weights {NAME} "), (
            message
        )
        assert time.monotonic() - started < 120
    assert not list(profile.parent.rglob("manifest.json"))


def test_the_local_test_server_answers_like_the_hub(hub):
    assert isinstance(hub, Hub)
    from huggingface_hub import HfApi, hf_hub_download

    commit = hub.push("a/b", {"x.txt": b"hello"})
    assert HfApi().model_info("a/b").sha == commit
    assert Path(hf_hub_download("a/b", "x.txt", revision=commit)).read_bytes() == b"hello"


def test_after_its_stage_a_model_needs_no_network(hub, tiny, tmp_path, monkeypatch):
    config = write("SigLIP", tmp_path / "tokenizer", "somebody/tokenizer")
    hub.push_folder("somebody/tokenizer", tmp_path / "tokenizer")
    given = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
    save(from_config({"model_cfg": config}, given), tmp_path / "model")
    hub.push(REPOSITORY, {name: (tmp_path / "model" / name).read_bytes() for name in (CONFIG, WEIGHTS)})
    values = yaml.safe_load(tiny.read_text())
    values["teachers"][0]["model"] = {"open_clip": NAME}
    values["students"][1]["model"] = {"config": config}  # trained from scratch, with the same tokenizer
    tiny.write_text(yaml.safe_dump(values, sort_keys=False))
    pipeline = Pipeline(load_profile(tiny))
    first = check_published_weights(pipeline, list(pipeline.graph))
    assert set(first) == {"teachers.wide.model", "students.plain.model"}
    assert set(first["students.plain.model"]) == {"somebody/tokenizer"}
    for group in pipeline.profile.group_names:
        pipeline.materialize("raw_shards", group)
    pipeline.materialize("teacher/wide")
    pipeline.materialize("student/plain")
    shutil.rmtree(tmp_path / "cache")
    point_to(monkeypatch, closed_port(), tmp_path / "cache", offline=True)
    later = Pipeline(load_profile(tiny))
    assert check_published_weights(later, ["teacher/wide", "student/plain"]) == {}
    assert later.materialize("teacher_embeddings/wide/text", later.profile.group_names[0]).samples > 0
    for name in ("wide", "plain"):
        later.materialize(f"evaluation/{name}", "shapes")
    (stored,) = later.read("student/plain")
    assert {*given, CONFIG, WEIGHTS} < {file.name for file in stored.manifest.files}


def test_an_interrupted_download_of_a_tokenizer_is_not_used(hub, tmp_path, monkeypatch):
    model = Model(config=write("CLIPA", tmp_path / "tokenizer", "somebody/tokenizer"))
    hub.push_folder("somebody/tokenizer", tmp_path / "tokenizer")
    real = hub_module.Listing.file

    def dying(listed, name):
        if name == "vocab.txt":
            hub.status = 503
        return real(listed, name)

    monkeypatch.setattr(hub_module.Listing, "file", dying)
    for _ in range(2):  # the second time, the cache contains some of the files
        with pytest.raises(
            WeightsError, match=r"tokenizer somebody/tokenizer are not on this machine.*answers HTTP 503"
        ):
            build(model)
    hub.status = 200
    monkeypatch.setattr(hub_module.Listing, "file", real)
    assert set(build(model).tokenizer_files) == {"config.json", "tokenizer_config.json", "vocab.txt"}


def test_a_tokenizer_of_a_local_folder_is_identified_by_its_content(tiny, tmp_path):
    folder = tmp_path / "tokenizer"
    values = yaml.safe_load(tiny.read_text())
    values["students"][1]["model"] = {"config": write("SigLIP", folder, str(folder))}
    tiny.write_text(yaml.safe_dump(values, sort_keys=False))

    def digest():
        pipeline = Pipeline(load_profile(tiny))
        (slice_,) = pipeline.graph["student/plain"].slices.values()
        assert set(slice_.externals) == {"tokenizer"} and check_published_weights(pipeline, ["student/plain"]) == {}
        return pipeline.inventory.digest(slice_.externals["tokenizer"], None)

    before = digest()
    assert digest() == before
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    assert digest() != before


def test_a_tokenizer_in_the_weight_repository_has_the_same_commit(hub, tmp_path):
    config = write("SigLIP", tmp_path / "tokenizer", REPOSITORY)
    given = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
    torch.manual_seed(0)
    save(from_config({"model_cfg": config}, given), tmp_path / "model")
    first = hub.push_folder(REPOSITORY, tmp_path / "model")
    hub.push(REPOSITORY, {"README.md": b"", "open_clip_config.json": b"{"})
    model = Model(open_clip=NAME, revision=first)
    assert build(model).tokenizer_files == given
    assert hub_module.find(model, "teachers.a.model", {}).commits == {REPOSITORY: first}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "cannot be read: open_clip_config.json is not JSON"),
        (b"\xff{}", "cannot be read: open_clip_config.json is not JSON"),
        (b"[]", "cannot be read: open_clip_config.json is not a JSON object"),
        (b'{"model_cfg": []}', "must be JSON objects"),
        (b'{"model_cfg": {"text_cfg": "bert"}}', "must be JSON objects"),
    ],
)
def test_a_damaged_configuration_is_reported(hub, profile, content, expected):
    hub.push(REPOSITORY, {CONFIG: content, WEIGHTS: b""})
    assert expected in refusal(profile)


def test_a_local_text_tower_without_a_configuration_is_reported(tmp_path):
    text = {"hf_model_name": str(tmp_path), "hf_tokenizer_name": str(tmp_path)}
    with pytest.raises(WeightsError, match=r"text tower .* cannot be read: .*config\.json"):
        build(Model(config={"embed_dim": 8, "vision_cfg": {}, "text_cfg": text}))
