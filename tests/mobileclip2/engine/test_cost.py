import json

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.cost import Costs
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


@pytest.mark.parametrize(
    "line", ["{}", "null", "7", "[" * 10**5, '{"group": null, "parts": [], "samples": 1, "seconds": Infinity}']
)
def test_a_log_line_that_is_not_a_time_record_is_skipped(line, tiny, caplog):
    pipeline = Pipeline(load(tiny))
    record = {"group": "g00", "parts": ["whole"], "samples": 8, "seconds": 2.0}
    pipeline.storage.append(".scratch/times/raw_shards.jsonl", f"{line}\n{json.dumps(record)}\n".encode())
    assert pipeline.times("raw_shards") == [record]
    assert Costs(pipeline).rate(pipeline.graph["raw_shards"]) == 4
    assert "raw_shards.jsonl: 1 lines are not records of times" in caplog.text


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
