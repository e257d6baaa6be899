from mobileclip2.report.columns import columns


def test_a_stage_with_sidecars_has_columns(materialized):
    pipeline = materialized("synthetic_captions/first")
    found = columns(pipeline, pipeline.materialize("synthetic_captions/first", "g00"))
    assert found == [("key", "string", False), ("caption", "string", False)]


def test_a_model_has_none(materialized):
    pipeline = materialized("teacher/wide")
    assert columns(pipeline, pipeline.materialize("teacher/wide")) == []
