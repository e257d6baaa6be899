import pytest

from mobileclip2.pipeline import Pipeline, Work
from mobileclip2.profile import load
from mobileclip2.progress import silent
from mobileclip2.stages.trained import publish


def work_on(profile, key):
    pipeline = Pipeline(load(profile))
    asset = pipeline.graph[key]
    (part,) = asset.parts.values()
    return Work(pipeline, asset, None, [pipeline.part_work(asset, part, None)], silent)


def test_only_the_first_of_several_processes_writes(tiny, monkeypatch):
    work = work_on(tiny, "teacher/wide")
    monkeypatch.setenv("RANK", "1")
    publish(work, None, lambda folder: pytest.fail(f"wrote into {folder}, which the first process clears"), [], {})
    assert work.parts[0].output.manifest() is None


def test_what_was_saved_is_stored_and_the_scratch_folder_is_gone(tiny):
    work = work_on(tiny, "teacher/wide")
    publish(work, None, lambda folder: (folder / "a.txt").write_text("a"), ["a.txt"], {})
    assert [file.name for file in work.parts[0].output.manifest().files] == ["a.txt"]
    assert not (work.pipeline.scratch / "teacher/wide" / work.parts[0].fingerprint).exists()
