"""Unfinished work in a bucket survives the loss of its machine."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.store import LocalStorage, S3Storage
from mobileclip2.store import s3 as s3_module
from mobileclip2.store.scratch import Scratch


@pytest.fixture
def storage(bucket):
    return S3Storage(f"s3://{bucket}/store")


def files(scratch):
    return {path.name: path.read_text() for path in scratch.folder.iterdir() if path.is_file()}


def test_the_last_saved_files_are_restored_on_every_machine(storage, tmp_path):
    first, second = (Scratch(tmp_path / name / "a" / "f", storage, "a/f") for name in ("first", "second"))
    (first.folder / "resume-0.safetensors").write_text("1")
    first.save("resume-0.safetensors")
    (first.folder / "resume-0.safetensors").write_text("2, and nobody else knows")
    (second.folder / "resume-0.safetensors").write_text("of an older life")
    (second.folder / "later").write_text("never kept")
    (second.folder / "features").mkdir()
    for scratch in (first, second):
        scratch.restore()
        assert files(scratch) == {"resume-0.safetensors": "1"}
    assert (second.folder / "features").is_dir()
    second.clear()
    assert not second.folder.exists() and not list(storage.list(""))


def test_machines_can_share_a_volume_and_only_rank_0_restores(storage, tmp_path, monkeypatch):
    scratch = Scratch(tmp_path / "shared", storage, "a/f")
    (scratch.folder / "resume-0.safetensors").write_text("1" * 100_000)
    scratch.save("resume-0.safetensors")
    (scratch.folder / "resume-0.safetensors").unlink()
    with ThreadPoolExecutor(8) as machines:
        list(machines.map(lambda _: scratch.restore(), range(24)))
    assert files(scratch) == {"resume-0.safetensors": "1" * 100_000}
    monkeypatch.setenv("LOCAL_RANK", "1")
    (scratch.folder / "resume-0.safetensors").write_text("2")
    scratch.restore()
    assert files(scratch) == {"resume-0.safetensors": "2"}


def test_a_local_store_keeps_scratch_files_in_place(tmp_path):
    scratch = Scratch(tmp_path / ".scratch" / "a", LocalStorage(tmp_path), "a")
    (scratch.folder / "resume-0.safetensors").write_text("1")
    scratch.save("resume-0.safetensors")
    scratch.restore()
    assert files(scratch) == {"resume-0.safetensors": "1"}
    scratch.clear()
    assert not scratch.folder.exists()


class Lost(Exception):
    """Simulate the loss of a machine."""


@pytest.mark.parametrize("key", ["student/plain", "captioner/first"])
def test_a_training_in_a_bucket_resumes_on_another_machine(storage, tiny, tmp_path, monkeypatch, key):
    torch.set_num_threads(1)
    values = yaml.safe_load(tiny.read_text())
    for each in [*values["students"], *values["captioners"]]:
        each["train"] |= {"steps": 6, "checkpoint_every": 2, "log_every": 1}
    for store in (str(tiny.parent / "store"), storage.url):
        tiny.write_text(yaml.safe_dump({**values, "store": store}))
        pipeline = Pipeline(load(tiny))
        for group in ("g00", "g01"):
            pipeline.materialize("raw_shards", group)
        if store == storage.url:
            continue
        pipeline.materialize(key)
        (undisturbed,) = pipeline.read(key)

    def lost_at_5(step):
        if step.unit == "steps" and step.done == 5:
            raise Lost

    with pytest.raises(Lost):
        pipeline.materialize(key, progress=lost_at_5)
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "another machine"))
    steps = []
    pipeline = Pipeline(load(tiny))
    pipeline.materialize(key, progress=steps.append)
    (found,) = pipeline.read(key)
    assert [step.done for step in steps if "loss" in step.numbers] == [5, 6]
    assert found.manifest.files == undisturbed.manifest.files
    lines = found.fetch("metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert not [name for name, _ in storage.list(".scratch/") if not name.startswith(".scratch/times/")]


def test_an_outage_at_a_checkpoint_does_not_stop_the_work(s3, storage, tmp_path, monkeypatch, caplog):
    scratch = Scratch(tmp_path / "a", storage, "a/f")
    (scratch.folder / "resume-0.safetensors").write_text("1")
    monkeypatch.setattr(s3_module, "PATIENCE_SECONDS", 0.05)
    s3.reset(lambda request: "503")
    scratch.save("resume-0.safetensors")
    assert "unfinished work is only on this machine" in caplog.text and files(scratch) == {"resume-0.safetensors": "1"}
    s3.reset()
    scratch.save("resume-0.safetensors")
    assert [key for key, _ in storage.list("")] == [".scratch/a/f/resume-0.safetensors"]


def test_only_undamaged_copies_are_restored(storage, tmp_path, caplog):
    scratch = Scratch(tmp_path / "a", storage, "a/f")
    for name in ("resume-0.safetensors", "resume-1.safetensors"):
        (scratch.folder / name).write_text(name)
    scratch.save("resume-0.safetensors", "resume-1.safetensors")
    key = f"{storage.prefix}.scratch/a/f/resume-1.safetensors"
    stated = storage.client.head_object(Bucket=storage.bucket, Key=key)["Metadata"]
    storage.client.put_object(Bucket=storage.bucket, Key=key, Body=b"damaged", Metadata=stated)
    scratch.restore()
    assert files(scratch) == {"resume-0.safetensors": "resume-0.safetensors"}
    assert "resume-1.safetensors: not restored, because its copy is damaged" in caplog.text
