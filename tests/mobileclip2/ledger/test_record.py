"""The ledger of a tiny pipeline in its own git and DVC repository."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine import gc as garbage
from mobileclip2.engine.lineage import read_lineage
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.errors import LedgerError
from mobileclip2.ledger import dvc as calls
from mobileclip2.ledger.committed import committed_paths
from mobileclip2.ledger.paths import stage_name
from mobileclip2.ledger.record import record
from pipelines.cli import main

pytestmark = pytest.mark.slow


def smaller(values: dict[str, Any]) -> None:
    """Keep one captioner and one teacher. Each kind of asset is still present."""
    values.update(ledger=".", captioners=values["captioners"][:1], teachers=values["teachers"][:1])
    for student in values["students"]:
        student["train"]["evaluate_every"] = 2


def change(profile: Path, edit: Any) -> Pipeline:
    values = json.loads(json.dumps(yaml.safe_load(profile.read_text())))
    edit(values)
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    return Pipeline(load(profile))


def materialize(pipeline: Pipeline) -> None:
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)


class Repository:
    """Run git and DVC commands as a user does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.profile = folder, folder / "tiny.yaml"

    def git(self, *arguments: str) -> str:
        named = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"]
        return self._run([*named, *arguments])

    def dvc(self, *arguments: str) -> str:
        return self._run([calls.command(), *arguments])

    def _run(self, command: list[str]) -> str:
        scripts = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DAGSTER_HOME": str(self.folder / ".dagster"),
        }
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def begin(self) -> None:
        self.git("init", "--quiet")
        self.dvc("init", "--quiet")
        (self.folder / ".gitignore").write_text("/store/\n/.dagster/\n")

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.dvc("status", "--json"))
        return found

    def content(self) -> dict[str, str]:
        """Return the hashes of all files outside the store and the folders of git and DVC."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if not (name := path.relative_to(self.folder).as_posix()).startswith(("store/", ".git/", ".dvc/"))
        }


@pytest.fixture(scope="module")
def recorded(tiny_template, tmp_path_factory):
    """Return the folder of a committed pipeline that was run completely. Tests must copy it."""
    repository = Repository(tmp_path_factory.mktemp("recorded") / "tiny")
    shutil.copytree(tiny_template, repository.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOBILECLIP2_CACHE", str(repository.folder.parent / "cache"))
        materialize(change(repository.profile, smaller))
        repository.begin()
        record(Pipeline(load(repository.profile)))
    repository.commit("one")
    return repository.folder


@pytest.fixture
def repository(recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    # keep links and times, because otherwise git and DVC hash all files again
    return Repository(Path(shutil.copytree(recorded, tmp_path / "tiny", symlinks=True)))


def test_a_commit_is_clean_and_dvc_status_lists_edited_stages(repository):
    assert repository.git("status", "--porcelain") == "" and repository.status() == {}
    for edit, stages in (
        (lambda v: v["teachers"][0].update(logit_scale=51), {"student-pupil"}),
        (lambda v: v["captioners"][0]["generation"].update(max_tokens=9), {"synthetic_captions-first"}),
        (lambda v: v["students"][1]["train"].update(workers=1, checkpoint_every=9), set()),
    ):
        change(repository.profile, edit)
        assert set(repository.status()) == stages
        repository.git("checkout", "--quiet", "tiny.yaml")


def test_recording_again_changes_no_files(repository):
    before = repository.content()
    recorded = record(Pipeline(load(repository.profile)))
    assert repository.content() == before
    assert recorded.missing == [] and len(recorded.current) == 15


def test_dvc_reproduces_a_stage_and_compares_two_commits(repository):
    change(repository.profile, lambda v: v["students"][1]["train"].update(learning_rate=0.2))
    first = (repository.folder / "checkpoints/plain/open_clip_model.safetensors").read_bytes()
    assert "mobileclip2 run student/plain --profile tiny.yaml" in repository.dvc("repro", "student-plain")
    pipeline = Pipeline(load(repository.profile))
    assert {(item.asset, item.slice) for item in plan(pipeline).items} == {("evaluation/plain", "shapes")}
    (read,) = pipeline.read("student/plain")
    second = (repository.folder / "checkpoints/plain/open_clip_model.safetensors").read_bytes()
    assert first != second == read.fetch("open_clip_model.safetensors").read_bytes()
    assert set(repository.status()) == {"evaluation-plain"}

    materialize(pipeline)
    assert record(pipeline).missing == []
    repository.commit("two")
    assert repository.git("status", "--porcelain") == "" and repository.status() == {}

    between = ("HEAD~1", "HEAD")
    metrics = json.loads(repository.dvc("metrics", "diff", "--json", "--all", *between))
    assert {"old", "new", "diff"} <= set(metrics["ledger/tiny/metrics/plain.json"]["shapes.acc1"])
    fields = json.loads(repository.dvc("params", "diff", "--json", *between))
    (changed,) = fields["ledger/tiny/params.json"].items()
    assert changed == ("students.plain.train.learning_rate", {"old": 0.001, "new": 0.2, "diff": 0.199})
    plots = json.loads(repository.dvc("plots", "diff", "--json", *between))["data"]["student/plain loss"]
    rows = plots[0]["content"]["data"]["values"]
    losses = {rev: [row["loss"] for row in rows if row["rev"] == rev] for rev in between}
    assert [len(each) for each in losses.values()] == [4, 4] and losses["HEAD"] != losses["HEAD~1"]

    assert main(["gc", "--delete", "--profile", str(repository.profile)]) == 0

    repository.git("checkout", "--quiet", "HEAD~1")
    repository.dvc("checkout", "--quiet")
    assert (repository.folder / "checkpoints/plain/open_clip_model.safetensors").read_bytes() == first
    assert repository.status() == {}
    assert plan(Pipeline(load(repository.profile))).items == ()
    record(Pipeline(load(repository.profile)))
    assert repository.git("status", "--porcelain") == ""


def test_committed_outputs_are_kept_by_gc(repository):
    pipeline = Pipeline(load(repository.profile))
    committed = committed_paths(pipeline.profile)
    assert committed == garbage.needed(pipeline)
    changed = change(repository.profile, lambda v: v["students"][1]["train"].update(seed=1))
    changed.materialize("student/plain")
    assert committed_paths(changed.profile) == committed
    record(changed)
    repository.commit("two")
    assert len(committed_paths(changed.profile)) == len(committed) + 1
    left = garbage.unneeded([changed], set(), [])
    assert {each.asset for each in left} == {"student/plain", "evaluation/plain"}
    assert garbage.unneeded([changed], committed_paths(changed.profile), []) == []


def test_a_checkpoint_is_pushed_and_pulled(repository, tmp_path):
    repository.dvc("remote", "add", "--default", "shelf", str(tmp_path / "shelf"))
    repository.dvc("push", "--quiet")
    checkpoint = repository.folder / "checkpoints" / "pupil" / "open_clip_model.safetensors"
    before = checkpoint.read_bytes()
    assert read_lineage(checkpoint.with_name("lineage.json")).asset == "student/pupil"
    shutil.rmtree(repository.folder / "checkpoints" / "pupil")
    shutil.rmtree(repository.folder / ".dvc" / "cache")
    shutil.rmtree(repository.folder / "store")
    repository.dvc("pull", "--quiet", "checkpoints/pupil")
    assert checkpoint.read_bytes() == before


def test_dvc_status_matches_the_plan_after_recording_an_edit(repository):
    """If a profile gains or loses fields or assets, ``dvc.yaml`` must be written first."""

    def second_teacher(values):
        values["teachers"].append({**values["teachers"][0], "name": "again"})
        del values["captioners"][0]["generation"]

    pipeline = change(repository.profile, second_teacher)
    recorded = record(pipeline)
    planned = {item.asset for item in plan(pipeline).items}
    assert {"teacher/again", "synthetic_captions/first", "student/pupil"} < planned
    assert set(recorded.missing) == planned
    assert set(repository.status()) == {stage_name(key) for key in planned}

    repository.git("checkout", "--quiet", "tiny.yaml")
    record(Pipeline(load(repository.profile)))
    assert repository.git("status", "--porcelain") == "" and repository.status() == {}


def test_removed_assets_leave_the_ledger(repository):
    pipeline = change(repository.profile, lambda values: values["students"].pop())
    record(pipeline)
    assert (
        not list(repository.folder.glob("ledger/**/plain*")) and not (repository.folder / "checkpoints/plain").exists()
    )
    lock = yaml.safe_load((repository.folder / "dvc.lock").read_text())
    assert set(lock["stages"]) == {stage_name(key) for key in pipeline.graph}


def test_a_partial_run_records_the_current_assets(repository, monkeypatch, capsys):
    shutil.rmtree(repository.folder / "store")
    monkeypatch.setenv("DAGSTER_HOME", str(repository.folder / ".dagster"))
    monkeypatch.chdir(repository.folder)
    assert main(["run", "raw_shards", "--profile", "tiny.yaml"]) == 0
    assert "ledger: 1 of 15 assets are recorded; not computed yet: augmentations" in capsys.readouterr().out
    kept = sorted(path.name for path in (repository.folder / "ledger" / "tiny").iterdir())
    assert kept == ["params.json", "raw_shards.json"]


def test_a_run_continues_outside_a_repository(tiny, monkeypatch, capsys):
    monkeypatch.setenv("DAGSTER_HOME", str(tiny.parent / ".dagster"))
    change(tiny, smaller)
    assert main(["run", "caption_corpus/clean", "--profile", str(tiny)]) == 0
    assert f"ledger not written: {tiny.parent}: not in a git repository" in capsys.readouterr().out
    assert not (tiny.parent / "dvc.yaml").exists()
    assert main(["ledger", "--profile", str(tiny)]) == 1


def test_the_dvc_file_of_another_profile_is_not_overwritten(repository):
    other = Path(shutil.copy(repository.profile, repository.folder / "other.yaml"))
    before = repository.content()
    with pytest.raises(LedgerError, match=r"dvc\.yaml: it belongs to another profile"):
        record(Pipeline(load(other)))
    assert repository.content() == before


def hold(repository: Repository) -> TextIO:
    """Lock the repository as another DVC process does, until the file is closed."""
    lock = (repository.folder / ".dvc" / "tmp" / "lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def test_recording_waits_for_a_locked_repository(repository, monkeypatch):
    pipeline = Pipeline(load(repository.profile))
    monkeypatch.setattr(calls, "WAIT_SECONDS", 60.0)
    lock = hold(repository)
    threading.Timer(6, lock.close).start()
    started = time.monotonic()
    assert record(pipeline).missing == []
    assert time.monotonic() - started > 5

    monkeypatch.setattr(calls, "WAIT_SECONDS", 0.0)
    with hold(repository), pytest.raises(LedgerError, match="another DVC process has held the repository"):
        record(pipeline)


def test_dvc_errors_are_reported(repository):
    (repository.folder / "dvc.lock").write_text("<<<<<<< HEAD\n")
    with pytest.raises(LedgerError, match=r"'dvc commit' failed: .*dvc\.lock.*; fix that and run"):
        record(Pipeline(load(repository.profile)))


def test_dvc_is_found_on_the_path_and_required(repository, tmp_path, monkeypatch):
    real, scripts = calls.command(), tmp_path / "scripts"
    scripts.mkdir()
    monkeypatch.setattr(calls.sys, "executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", f"{scripts}:/usr/bin:/bin")
    with pytest.raises(LedgerError, match="there is no command 'dvc'; 'make setup' installs it"):
        record(Pipeline(load(repository.profile)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "dvc").symlink_to(real)
    monkeypatch.setenv("PATH", f"{elsewhere}:/usr/bin:/bin")
    assert calls.command() == str(elsewhere / "dvc")
    assert record(Pipeline(load(repository.profile))).missing == []
