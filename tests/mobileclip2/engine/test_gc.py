"""Test gc on the assets of the tiny profile that need no model. ``test_lineage`` tests the other assets."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine import gc
from mobileclip2.engine.gc import Stored, delete, lineages_in, needed, stored, unneeded
from mobileclip2.engine.lineage import LINEAGE, Lineage, Node
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import LeaseLost, StoreError, UserError
from mobileclip2.store import lease
from mobileclip2.store.lease import acquire, is_held
from mobileclip2.store.storage import LocalStorage
from tests.waiting import until

OLD = "0123456789abcdef"


@pytest.fixture
def pipeline(tiny: Path) -> Pipeline:
    made = Pipeline(load(tiny))
    for group in made.profile.group_names:
        made.materialize("raw_shards", group)
        made.materialize("augmentations", group)
    made.materialize("caption_corpus/clean")
    return made


def edit(pipeline: Pipeline, before: str, after: str, name: str = "tiny.yaml") -> Pipeline:
    profile = Path(pipeline.profile.folder) / name
    assert before in pipeline.profile.text
    profile.write_text(pipeline.profile.text.replace(before, after))
    return Pipeline(load(profile))


def paths(outputs: list[Stored]) -> set[str]:
    return {output.path for output in outputs}


def other_seed(pipeline: Pipeline, **options: str) -> Pipeline:
    return edit(pipeline, "count: 2, seed: 1", "count: 2, seed: 2", **options)


def views_of(pipeline: Pipeline) -> set[str]:
    return {each.prefix for each in pipeline.read("augmentations")}


def lineage_file(folder: Path, *places: str) -> Path:
    nodes = {}
    for place in places:
        asset, fingerprint, group = place.split("/")
        node = Node(
            asset=asset,
            part="view-0",
            group=group,
            fingerprint=fingerprint,
            code_version="1",
            path=place,
            made_from={},
        )
        nodes[place] = node
    folder.mkdir(parents=True)
    (folder / LINEAGE).write_bytes(Lineage(asset="augmentations", nodes=nodes).to_bytes())
    return folder / LINEAGE


def test_outputs_are_found_with_their_sizes(pipeline: Pipeline) -> None:
    storage = pipeline.storage
    storage.write(f"student/pupil/{OLD}/model.safetensors", b"123")
    storage.write(f"student/pupil/{OLD}/lineage.json", b"4567")
    for name in ("manifest.json", "tokenizer.json"):
        storage.write(f"captioner/first/{OLD}/{name}", b"1")
    storage.write(f"augmentations/{OLD}/g00/000.parquet", b"1")
    storage.write(f".scratch/student/pupil/{OLD}/resume.pt", b"12345")
    storage.write(f".leases/{OLD}/lease/x", b"")
    storage.write("notes/readme.txt", b"not an output")
    found = stored(pipeline)
    assert found.pop(f"captioner/first/{OLD}") == Stored("captioner/first", OLD, None, 2, 2, finished=True)
    assert found[f"student/pupil/{OLD}"] == Stored("student/pupil", OLD, None, 2, 7)
    assert found[f"augmentations/{OLD}/g00"] == Stored("augmentations", OLD, "g00", 1, 1)
    assert found[f".scratch/student/pupil/{OLD}"] == Stored("student/pupil", OLD, None, 1, 5, scratch=True)
    rest = set(found) - {f"student/pupil/{OLD}", f"augmentations/{OLD}/g00", f".scratch/student/pupil/{OLD}"}
    assert rest == {
        each.prefix for key in ("raw_shards", "augmentations", "caption_corpus/clean") for each in pipeline.read(key)
    }
    assert all(found[path].finished for path in rest)


def test_a_profile_keeps_only_its_own_outputs(pipeline: Pipeline) -> None:
    assert unneeded([pipeline], set(), []) == []
    changed = other_seed(pipeline)
    assert paths(unneeded([changed], set(), [])) == views_of(pipeline)


def test_an_output_that_any_profile_needs_is_kept(pipeline: Pipeline) -> None:
    changed = other_seed(pipeline, name="other.yaml")
    for pipelines in ([changed, pipeline], [pipeline, changed]):
        assert unneeded(pipelines, set(), []) == []


def test_commits_runs_and_checkpoints_keep_outputs(pipeline: Pipeline, tmp_path: Path) -> None:
    payload, views = pipeline.lock_payload, views_of(pipeline)
    changed = other_seed(pipeline)
    one, *others = sorted(views)
    assert others and paths(unneeded([changed], {one}, [])) == set(others)
    checkpoint = lineage_file(tmp_path / "kept", one)
    assert paths(unneeded([changed], set(), [checkpoint])) == set(others)
    with acquire(changed.storage, ["somewhere"], payload):
        assert unneeded([changed], set(), []) == []
    assert paths(unneeded([changed], set(), [])) == views


def test_outputs_downstream_of_a_missing_input_are_kept(pipeline: Pipeline) -> None:
    (raw, _) = pipeline.read("raw_shards")
    views = views_of(pipeline)
    raw.delete("manifest.json")
    changed = Pipeline(pipeline.profile)
    found = stored(changed)
    assert views <= needed(changed, found.values())
    assert not {path for path in views if path.endswith(f"/{raw.summary.group}")} & needed(changed)
    assert unneeded([changed], set(), []) == []


def test_scratch_is_kept_until_its_output_is_finished(pipeline: Pipeline) -> None:
    (corpus,) = pipeline.read("caption_corpus/clean")
    own, old = f".scratch/{corpus.prefix}", f".scratch/caption_corpus/clean/{OLD}"
    for place in (own, old):
        pipeline.storage.write(f"{place}/resume.pt", b"1")
    assert paths(unneeded([pipeline], set(), [])) == {own, old}
    corpus.delete("manifest.json")
    assert paths(unneeded([Pipeline(pipeline.profile)], set(), [])) == {old}


def test_gc_holds_the_lease_of_an_output_while_deleting_it(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.storage.write(f".scratch/caption_corpus/clean/{OLD}/resume.pt", b"1")
    changed = other_seed(pipeline)
    outputs = unneeded([changed], set(), [])
    held: dict[str, bool] = {}
    whole = type(changed.storage).delete_folder

    def delete_folder(storage, folder: str) -> None:
        held[folder] = is_held(storage, folder)
        whole(storage, folder)

    monkeypatch.setattr(type(changed.storage), "delete_folder", delete_folder)
    delete(changed, outputs)
    assert held == dict.fromkeys(paths(outputs), True)
    assert f".scratch/caption_corpus/clean/{OLD}" in held and not paths(outputs) & set(stored(changed))
    assert set(stored(changed)) == needed(changed) & set(stored(changed))


def test_a_folder_to_keep_must_hold_a_checkpoint(tmp_path: Path) -> None:
    one = lineage_file(tmp_path / "kept" / "one", f"augmentations/{OLD}/g00")
    two = lineage_file(tmp_path / "kept" / "two", f"augmentations/{OLD}/g01")
    assert lineages_in(tmp_path / "kept") == [one, two]
    shutil.rmtree(tmp_path / "kept")
    with pytest.raises(UserError, match=r"kept: this folder contains no lineage\.json"):
        lineages_in(tmp_path / "kept")


def test_outputs_needed_by_a_newly_started_run_are_kept(pipeline: Pipeline) -> None:
    payload, views = pipeline.lock_payload, views_of(pipeline)
    old = f".scratch/augmentations/{OLD}"
    pipeline.storage.write(f"{old}/resume.pt", b"1")
    changed = other_seed(pipeline)
    outputs = unneeded([changed], set(), [])
    assert paths(outputs) == {*views, old}
    with acquire(changed.storage, ["run/elsewhere"], payload):
        assert paths(delete(changed, outputs)) == {old}
    assert views <= set(stored(changed))
    assert paths(delete(changed, unneeded([changed], set(), []))) == views


def test_an_output_that_changed_or_was_leased_before_deletion_is_kept(pipeline: Pipeline) -> None:
    views = sorted(views_of(pipeline))
    changed = other_seed(pipeline)
    outputs = unneeded([changed], set(), [])
    changed.storage.write(f"{views[0]}/more.parquet", b"1")
    with acquire(changed.storage, [views[1]], lease.USES_NOTHING):
        assert paths(delete(changed, outputs)) == set(views[2:])


@pytest.mark.parametrize("name", ["00000.parquet.sha256", ".0a331137dd9441c7baffb58ee9c541e5.partial"])
def test_files_that_a_killed_process_left_are_deleted(pipeline: Pipeline, name: str) -> None:
    """A finished output does not need these files. In an unfinished output, hashes record which shards are complete."""
    finished = Path(pipeline.storage.url) / pipeline.read("raw_shards", "g00")[0].prefix
    unfinished = finished.with_name("g09")
    unfinished.mkdir()
    for folder in (finished, unfinished):
        (folder / name).write_text("0" * 64)
    with acquire(pipeline.storage, [finished.relative_to(pipeline.storage.url).as_posix()]):
        delete(pipeline, [])
        assert name.endswith(".sha256") or (finished / name).exists(), "a process that writes there can need it"
    assert delete(pipeline, []) == []
    assert not (finished / name).exists() and (unfinished / name).exists()
    assert pipeline.is_current("caption_corpus/clean")


def test_the_manifest_of_an_output_is_deleted_first(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted deletion must not leave an output that looks complete."""
    keys: list[str] = []
    real = LocalStorage.delete

    def recorded(storage: LocalStorage, key: str) -> None:
        keys.append(key)
        real(storage, key)

    monkeypatch.setattr(LocalStorage, "delete", recorded)
    changed = other_seed(pipeline)
    (first, *_) = sorted(views_of(pipeline))
    delete(changed, unneeded([changed], set(), []))
    of_first = [key for key in keys if key.startswith(f"{first}/")]
    assert len(of_first) > 1 and of_first[0] == f"{first}/manifest.json"


def test_a_run_that_begins_during_a_deletion_waits_for_it(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
    views = sorted(views_of(pipeline))
    changed = other_seed(pipeline)
    began, runs, end = [], [], threading.Event()

    def run() -> None:
        with pipeline.run_lease():
            began.append({*stored(pipeline)} & {*views})
            end.wait(60)

    real = gc._delete

    def slowly(storage, path, leases) -> None:
        runs.append(threading.Thread(target=run))
        runs[-1].start()
        until(lambda: any(held.name.startswith("run/") for held in lease.all_held(storage)))
        assert began == [], "it decides while an output disappears"
        real(storage, path, leases)

    monkeypatch.setattr(gc, "_delete", slowly)
    deleted = delete(changed, unneeded([changed], set(), []))
    end.set()
    for each in runs:
        each.join(60)
    assert paths(deleted) == {views[0]}, "the run was seen before the second deletion"
    assert began == [set(views[1:])]


@pytest.mark.parametrize("content", [b"", b'{"holder": "x", "payload": "', b'{"holder": "x", "payload": "{}"}'])
def test_a_lease_without_a_payload_keeps_everything(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(lease, "WRITE_SECONDS", 0.05)
    changed = other_seed(pipeline)
    outputs = unneeded([changed], set(), [])
    with acquire(changed.storage, ["run/unknown"], ""):
        path = Path(changed.storage.url) / lease._key("run/unknown")
        path.write_bytes(content)
        for collect in (lambda: unneeded([changed], set(), []), lambda: delete(changed, outputs)):
            with pytest.raises(StoreError, match=f"{path}: a process holds this lease.*wait until the process ends"):
                collect()
    assert paths(outputs) <= set(stored(changed))


def test_a_gc_that_loses_its_lease_deletes_no_output(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = other_seed(pipeline)
    outputs = unneeded([changed], set(), [])
    real = gc._delete

    def late(storage, path, leases) -> None:
        (Path(storage.url) / lease._key(lease.DELETING)).unlink()
        real(storage, path, leases)

    monkeypatch.setattr(gc, "_delete", late)
    with pytest.raises(LeaseLost):
        delete(changed, outputs)
    assert paths(outputs) <= set(stored(changed))


def test_concurrent_gc_processes_share_the_work(pipeline: Pipeline) -> None:
    views = views_of(pipeline)
    changed = other_seed(pipeline)
    for number in range(100):
        changed.storage.write(f"augmentations/{number:016x}/g00/000.parquet", b"1")
    command = [sys.executable, "-m", "pipelines.cli", "gc", "--profile", str(changed.profile.file), "--delete"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for each in running:
        _, errors = each.communicate(timeout=120)
        assert (each.returncode, "Traceback" in errors) == (0, False), errors
    assert not (views & set(stored(changed))) and unneeded([changed], set(), []) == []


def test_a_run_stops_when_it_loses_the_lease_of_an_output(tiny: Path) -> None:
    pipeline = Pipeline(load(tiny))
    compute = pipeline.compute

    class Loses:
        def run(self, batch) -> float:
            (Path(batch.pipeline.storage.url) / lease._key(batch.tasks[0].output.prefix)).unlink()
            return compute.run(batch)

    pipeline.compute = Loses()
    with pytest.raises(LeaseLost, match=r"raw_shards/.*this lease was lost.*run again"):
        pipeline.materialize("raw_shards", "g00")
    assert not [key for key, _ in pipeline.storage.list("raw_shards/")]
