import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan


def test_broken_lines_of_the_time_log_are_skipped(tiny):
    pipeline = Pipeline(load(tiny))
    pipeline.materialize("raw_shards", "g00")
    (times,) = (pipeline.scratch / "times").iterdir()
    whole = times.read_text()
    times.write_bytes(whole[:20].encode() + whole.encode() + b"\xff\n")
    assert pipeline.times("raw_shards") == []
    times.write_bytes(b"{\n" + whole.encode() + b"\xff\n")
    assert [record["group"] for record in pipeline.times("raw_shards")] == ["g00"]


def test_rates_of_the_profile_apply_without_logged_times(tiny):
    values = yaml.safe_load(tiny.read_text())
    values["rates"] = {"student": 4.0, "teacher_embeddings": 2.0, "teacher_embeddings/wide/text": 10.0}
    tiny.write_text(yaml.safe_dump(values))
    pipeline = Pipeline(load(tiny))
    samples = pipeline.materialize("raw_shards", "g00").samples
    costs = {(item.asset, item.group): item.cost for item in plan(pipeline).items}
    assert costs["student/pupil", None].seconds == 4 * 8 / 4.0
    assert costs["teacher_embeddings/wide/image", "g00"].seconds == samples / 2.0
    assert costs["teacher_embeddings/wide/text", "g00"].seconds == samples / 10.0
    assert costs["teacher_embeddings/wide/text", "g00"].unknown == {"bytes"}
    assert costs["teacher_embeddings/wide/text", "g01"].unknown == {"samples", "bytes", "seconds"}
