from pathlib import Path

import pytest

from demo.tars import write_tar
from mobileclip2.config.profile import load
from mobileclip2.data.tar import read_samples
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.stages.evaluation_pictures import FOLDER, no_evaluation_pictures


def judged(profile: Path):
    pipeline = Pipeline(load(profile))
    return no_evaluation_pictures(pipeline, pipeline.materialize("raw_shards", "g00"))


def put_picture_into_training(profile: Path) -> None:
    """Append a picture of the evaluation set to the first shard, under another name."""
    shard = profile.parent / "shards" / "00000.tar"
    with shard.open("rb") as file:
        samples = list(read_samples(file, str(shard)))
    members = [(f"{sample.key}.{name}", data) for sample in samples for name, data in sample.members.items()]
    picture = next(EvaluationSet("shapes", profile.parent / "evaluation" / "shapes").samples()).image
    write_tar(shard, [*members, ("leaked.webp", picture), ("leaked.txt", b"a leaked picture")])


def test_a_picture_of_an_evaluation_set_is_found_by_its_bytes(tiny: Path):
    assert judged(tiny).passed
    put_picture_into_training(tiny)
    verdict = judged(tiny)
    assert not verdict.passed and verdict.numbers == {"evaluation_pictures": 1}
    assert "1 of shapes, such as leaked" in verdict.description


@pytest.mark.parametrize("limit", ["1", "null"])
def test_the_profile_sets_the_limit_of_evaluation_pictures(tiny: Path, limit: str):
    put_picture_into_training(tiny)
    tiny.write_text(tiny.read_text().replace("checks: {", f"checks: {{evaluation_pictures: {limit}, "))
    assert judged(tiny).passed


def test_a_set_is_hashed_once(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    judged(tiny)
    stored = list((Path(Pipeline(load(tiny)).storage.url) / FOLDER).iterdir())
    assert len(stored) == 1
    monkeypatch.setattr(EvaluationSet, "samples", lambda self: 1 / 0)
    assert judged(tiny).passed


def test_a_set_in_a_bucket_or_without_files_is_named(tiny: Path):
    text = tiny.read_text().replace("url: evaluation/shapes", "url: s3://bucket/shapes")
    tiny.write_text(text)
    verdict = judged(tiny)
    assert verdict.passed and "not compared" in verdict.description and "shapes" in verdict.description
    tiny.write_text(text.replace("s3://bucket/shapes", "evaluation/nowhere"))
    assert "not compared" in judged(tiny).description
