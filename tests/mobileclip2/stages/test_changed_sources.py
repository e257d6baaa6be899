"""A stage rejects a source that changes after the plan or while the stage reads it, and writes no manifest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mobileclip2.config.profile import load
from mobileclip2.data.tar import TarWriter, read_samples
from mobileclip2.engine import shard_stage, source_inventory
from mobileclip2.engine.listing import list_files
from mobileclip2.engine.pipeline import Pipeline, TaskBatch
from mobileclip2.engine.shard import Shard, open_shard
from mobileclip2.engine.task import TaskSpec
from mobileclip2.errors import ShardError
from mobileclip2.progress import silent
from mobileclip2.stages import evaluation, export, raw_shards, reinforced_dataset, student
from mobileclip2.store.storage import file_sha256

Change = Callable[[Path, Path], Callable[[], object]]
"""(tar, another tar) -> function that puts the tar back"""


def rename_away(tar: Path, other: Path) -> Callable[[], object]:
    kept = tar.with_suffix(".kept")
    tar.rename(kept)
    shutil.copy2(other, tar)
    return lambda: kept.rename(tar)


def rewrite_in_place(tar: Path, other: Path) -> Callable[[], object]:
    """Keep the inode, and restore the times that can be set."""
    data, status = tar.read_bytes(), tar.stat()

    def write(content: bytes) -> None:
        with tar.open("r+b") as file:
            file.write(content.ljust(len(data), b"\0"))
            file.truncate(max(len(data), len(content)))
        os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))

    write(other.read_bytes())

    def put_back() -> None:
        write(data)
        os.truncate(tar, len(data))
        os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))

    return put_back


def retarget_link(tar: Path, other: Path) -> Callable[[], object]:
    """Point the link at another tar. The first target keeps its inode and its times."""
    target = tar.readlink()
    tar.unlink()
    tar.symlink_to(other)

    def put_back() -> None:
        tar.unlink()
        tar.symlink_to(target)

    return put_back


CHANGES: list[Change] = [rename_away, rewrite_in_place, retarget_link]


@pytest.fixture
def another(tiny: Path) -> Path:
    """Return a tar with the keys and captions of the first tar and the images of the second."""
    samples = []
    for name in ("00000.tar", "00002.tar"):
        with (tiny.parent / "shards" / name).open("rb") as file:
            samples.append(list(read_samples(file, name)))
    path = tiny.parent / "other.tar"
    with TarWriter(path) as writer:
        for own, its in zip(*samples, strict=True):
            writer.write(own.key, own.members | {"jpg": its.members["jpg"]})
    return path


@pytest.fixture
def tar(tiny: Path, request: pytest.FixtureRequest) -> Path:
    """Return the first tar. It is a link if the change retargets a link."""
    tar = tiny.parent / "shards" / "00000.tar"
    if request.getfixturevalue("change") is retarget_link:
        shutil.move(tar, tiny.parent / "target.tar")
        tar.symlink_to(tiny.parent / "target.tar")
    return tar


def manifests(profile: Path, stage: str) -> list[Path]:
    return list(profile.parent.glob(f"store/{stage}/**/manifest.json"))


def planned(profile: Path, *ready: str) -> Pipeline:
    """Return a pipeline that has computed some stages and has planned the others."""
    pipeline = Pipeline(load(profile))
    for key in ready:
        for group in pipeline.groups(pipeline.graph[key]):
            pipeline.materialize(key, group)
    list(pipeline.stale())
    return pipeline


@pytest.mark.parametrize("change", CHANGES)
def test_validation_refuses_a_tar_that_was_replaced_after_the_plan(
    tiny: Path, tar: Path, another: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = planned(tiny)
    put_back = change(tar, another)
    write = raw_shards.write_sidecar

    def write_and_put_back(*arguments: Any) -> None:
        put_back()
        write(*arguments)

    monkeypatch.setattr(raw_shards, "write_sidecar", write_and_put_back)
    with pytest.raises(ShardError, match=r"00000\.tar: the file has changed since the run was planned \("):
        pipeline.materialize("raw_shards", "g00")
    assert not manifests(tiny, "raw_shards")


@pytest.mark.parametrize("change", CHANGES)
def test_validation_refuses_a_tar_replaced_and_put_back_while_reading(
    tiny: Path, tar: Path, another: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = planned(tiny).materialize("raw_shards", "g00").data_version
    shutil.rmtree(tiny.parent / "store")
    pipeline = planned(tiny)
    validate = raw_shards.validate_shard
    put_back: list[Callable[[], object]] = []

    def replaced(samples: Iterator[Any], *arguments: Any) -> Any:
        if not put_back:
            put_back.append(change(tar, another))
        result = validate(samples, *arguments)
        put_back[0]()
        return result

    monkeypatch.setattr(raw_shards, "validate_shard", replaced)
    if change is retarget_link:  # the open tar is the planned one
        assert pipeline.materialize("raw_shards", "g00").data_version == expected
        return
    with pytest.raises(ShardError, match=r"00000\.tar: the file has changed since the run was planned \("):
        pipeline.materialize("raw_shards", "g00")
    assert not manifests(tiny, "raw_shards")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("stage", ["teacher_embeddings/wide/image", "synthetic_captions/first"])
def test_models_refuse_a_tar_that_was_replaced_after_the_plan(
    tiny: Path, tar: Path, another: Path, change: Change, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = [key for key in Pipeline(load(tiny)).graph if key in _upstream(tiny, stage)]
    pipeline = planned(tiny, *ready)
    put_back = change(tar, another)
    iter_valid = shard_stage.iter_valid

    def read_and_put_back(*arguments: Any) -> Iterator[Any]:
        yield from iter_valid(*arguments)
        put_back()

    monkeypatch.setattr(shard_stage, "iter_valid", read_and_put_back)
    with pytest.raises(ShardError, match=r"00000\.tar: .*has changed since"):
        pipeline.materialize(stage, "g00")
    assert not manifests(tiny, stage)


def _upstream(profile: Path, key: str) -> set[str]:
    graph = Pipeline(load(profile)).graph
    found = set(graph[key].upstream)
    return found.union(*(_upstream(profile, each) for each in found)) if found else found


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_is_compared_with_its_hash(tiny: Path, tar: Path, another: Path, change: Change) -> None:
    """The comparison does not need the times and the inode of the plan."""
    pipeline = planned(tiny, "raw_shards")
    shard = pipeline.inventory.group_shards("g00")[0]
    raw = shard_stage.raw_table(pipeline.read("raw_shards", "g00")[0], shard)
    change(tar, another)
    with pytest.raises(ShardError, match=r"00000\.tar: '000000000\.jpg' has changed since it was validated"):
        list(shard_stage.encoded_images(Shard(shard.relative, shard.url), raw))


@pytest.mark.parametrize("change", [rename_away, rewrite_in_place])
def test_joining_refuses_changed_fields(change: Change, monkeypatch: pytest.MonkeyPatch, finished: Path) -> None:
    """The images are equal, and the changed 'json' is not hashed."""
    shutil.rmtree(finished.parent / "store" / "reinforced_dataset")
    tar = finished.parent / "shards" / "00000.tar"
    other = finished.parent / "other.tar"
    with tar.open("rb") as file, TarWriter(other) as writer:
        for sample in read_samples(file, tar.name):
            writer.write(sample.key, sample.members | {"json": b'{"wrong": 1}'})
    pipeline = Pipeline(load(finished))
    list(pipeline.stale())
    put_back = change(tar, other)
    join = reinforced_dataset.join_shard

    def join_and_put_back(*arguments: Any, **options: Any) -> Any:
        try:
            return join(*arguments, **options)
        finally:
            put_back()

    monkeypatch.setattr(reinforced_dataset, "join_shard", join_and_put_back)
    with pytest.raises(ShardError, match=r"00000\.tar: the file has changed since the run was planned"):
        pipeline.materialize("reinforced_dataset", "g00")


def test_a_file_that_changes_while_it_is_hashed_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file_sha256 = source_inventory.file_sha256

    def replaced(path: Path) -> str:
        digest = file_sha256(path)
        shutil.copy(path, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)
        return digest

    monkeypatch.setattr(source_inventory, "file_sha256", replaced)
    with pytest.raises(ShardError, match=r"\.tar: the file has changed since the run was planned"):
        list(Pipeline(load(tiny)).stale())


def of_another_machine(shard: Shard) -> Shard:
    """Return a shard with the version token of a planning process whose mount has other inodes and change times."""
    size, mtime, inode, _ = shard.version_token.split(":")
    return shard._replace(version_token=f"{size}:{mtime}:{int(inode) + 1}:1")


def test_another_process_may_see_another_inode(tiny: Path) -> None:
    pipeline = planned(tiny)
    (shard, *_) = pipeline.inventory.for_other_processes(pipeline.inventory.group_shards("g00"))
    assert shard.sha256 == file_sha256(Path(shard.url))
    with open_shard(of_another_machine(shard)) as file:
        assert file.read(1)
    with (
        pytest.raises(ShardError, match=r"the file has changed since the run was planned \(inode .* change time"),
        open_shard(of_another_machine(shard)._replace(sha256=None)),
    ):
        pass


@pytest.mark.parametrize("change", CHANGES)
def test_another_process_compares_the_hash(tiny: Path, tar: Path, another: Path, change: Change) -> None:
    pipeline = planned(tiny)
    (shard, *_) = pipeline.inventory.for_other_processes(pipeline.inventory.group_shards("g00"))
    size = tar.stat().st_size
    change(tar, another)
    os.truncate(tar, size)
    os.utime(tar, ns=(0, int(shard.version_token.split(":")[1])))
    with pytest.raises(ShardError, match="has changed since the run was planned"), open_shard(shard):
        pass


@pytest.mark.parametrize("change", [rename_away, rewrite_in_place])
def test_another_process_compares_the_inode_while_it_reads(
    tiny: Path, tar: Path, another: Path, change: Change
) -> None:
    pipeline = planned(tiny)
    (shard, *_) = pipeline.inventory.for_other_processes(pipeline.inventory.group_shards("g00"))
    with (
        pytest.raises(ShardError, match="has changed since the run was planned"),
        open_shard(of_another_machine(shard)),
    ):
        change(tar, another)()


def test_a_task_spec_has_the_hashes_of_its_shards(tiny: Path) -> None:
    pipeline = planned(tiny)
    asset = pipeline.graph["raw_shards"]
    task = pipeline.task_for(asset, asset.slices["whole"], "g00")
    assert task
    spec = TaskSpec.of(TaskBatch(pipeline, asset, "g00", [task], silent))
    read = TaskSpec.model_validate_json(spec.model_dump_json())
    assert read.shards and all(shard.sha256 == file_sha256(Path(shard.url)) for shard in read.shards)


def test_a_copied_folder_stays_current(tiny: Path, tmp_path: Path) -> None:
    pipeline = planned(tiny, "raw_shards")
    assert not pipeline.missing(pipeline.graph["raw_shards"], "g00")
    copy = Path(shutil.copytree(tiny.parent, tmp_path / "copy")) / tiny.name
    copied = Pipeline(load(copy))
    assert not copied.missing(copied.graph["raw_shards"], "g00")


@pytest.mark.parametrize("when", ["after the plan", "while it is read"])
@pytest.mark.parametrize("stage", ["evaluation", "student"])
def test_a_set_that_changes_while_it_is_evaluated_is_refused(
    finished: Path, stage: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in finished.parent.glob(f"store/{stage}/**/manifest.json"):
        path.unlink()
    pipeline = Pipeline(load(finished))
    key, group = {"evaluation": ("evaluation/pupil", "shapes"), "student": ("student/pupil", None)}[stage]
    assert key in {asset.key for asset, _ in pipeline.stale()}
    module = {"evaluation": evaluation, "student": student}[stage]
    change_set(finished, when, module, "evaluate", monkeypatch)
    with pytest.raises(ShardError, match="has changed"):
        pipeline.materialize(key, group)
    assert not list(finished.parent.glob(f"store/{key}/**/manifest.json"))


def test_a_set_that_changes_while_an_export_reads_it_is_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = finished.parent / "exported"
    change_set(finished, "while it is read", export, "inputs", monkeypatch)
    with pytest.raises(ShardError, match=r"'test/0\.tar' has changed while it was read"):
        export.export(Pipeline(load(finished)), "student/pupil", to, "open_clip")
    assert not to.exists()


def change_set(profile: Path, when: str, module: ModuleType, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the tar of the evaluation set, or replace it while a function of a module reads it, and put it back."""
    (tar, *_) = (profile.parent / "evaluation" / "shapes").rglob("*.tar")
    other = profile.parent / "other.tar"
    shutil.copy(tar, other)
    with other.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    read = getattr(module, reader)

    def changed(*arguments: Any, **options: Any) -> Any:
        put_back = rename_away(tar, other)
        result = read(*arguments, **options)
        put_back()
        return result

    if when == "after the plan":
        with tar.open("ab") as file:
            file.write(bytes(512))
    else:
        monkeypatch.setattr(module, reader, changed)


def test_the_version_token_of_a_file_contains_its_change_time(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"1")
    (before,) = list_files(str(tmp_path), "**/*")
    os.utime(tmp_path / "a.tar", ns=(0, (tmp_path / "a.tar").stat().st_mtime_ns))
    status = (tmp_path / "a.tar").stat()
    (after,) = list_files(str(tmp_path), "**/*")
    assert after.version_token == f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}:{status.st_ctime_ns}"
    assert before.relative == after.relative
