from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from assets.metadata import definition_metadata, result_metadata, training_metadata, uri
from assets.raw_shards import few_samples_are_bad
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def shown(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Return the metadata as Dagster stores it."""
    return dict(dg.AssetMaterialization("a", metadata=result_metadata(pipeline, result)).metadata)


def test_materialization_metadata_has_rows_size_and_uri(tiny: Path) -> None:
    pipeline = Pipeline(load(tiny))
    first, again = (pipeline.materialize("raw_shards", "g00") for _ in range(2))
    entries = shown(pipeline, first)
    (summary,) = first.summaries.values()
    assert [entries[name].value for name in ("dagster/row_count", "dagster/partition_row_count", "samples")] == [11] * 3
    assert entries["dagster/size_bytes"].value == summary.size > 0
    folder = f"{pipeline.storage.url}/raw_shards/{summary.fingerprint}/g00"
    assert entries["dagster/uri"].value == Path(folder).as_uri() and (Path(folder) / "manifest.json").is_file()
    assert entries["skipped"].value == 1 and entries["skip_reasons"].value == {"truncated-image": 1}
    assert entries["fingerprint"].value == summary.fingerprint
    assert entries["data_version"].value == first.data_version
    assert float(str(entries["samples_per_second"].value)) > 0 and entries["reused"].value is False
    assert "samples_per_second" not in shown(pipeline, again) and shown(pipeline, again)["reused"].value is True


def test_the_column_schema_matches_the_sidecar(tiny: Path) -> None:
    pipeline = Pipeline(load(tiny))
    schema = shown(pipeline, pipeline.materialize("raw_shards", "g00"))["dagster/column_schema"].value
    assert isinstance(schema, dg.TableSchema)
    columns = {column.name: (column.type, column.constraints.nullable) for column in schema.columns}
    assert columns["key"] == ("string", False) and columns["width"] == ("int32", False)
    assert columns["url"] == ("string", True)


def test_slices_are_a_table_and_their_facts_are_numbers(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("teacher_embeddings/wide/image")
    result = pipeline.materialize("teacher_embeddings/wide/image", "g00")
    entries = shown(pipeline, result)
    table = entries["slices"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["slice"] for record in table.records] == list(result.summaries)
    assert entries["embed_dim"].value == next(iter(result.summaries.values())).facts["embed_dim"]
    assert "fingerprint" not in entries


def test_internal_names_are_not_shown(materialized: Callable[..., Pipeline]) -> None:
    """Entries of assets with one slice do not mention the slice's name."""
    pipeline = materialized("student/plain", "evaluation/plain", "synthetic_captions/first")
    for asset in pipeline.graph.values():
        if pipeline.is_current(asset.key):
            result = pipeline.materialize(asset.key, pipeline.groups(asset)[0])
            entries = shown(pipeline, result) | definition_metadata(pipeline.profile, asset)
            assert not {"computed", "whole", "facts", "fingerprints"} & set(entries)
            assert '"whole"' not in json.dumps({name: str(value) for name, value in entries.items()}) + json.dumps(
                entries["declared"]
            )


def test_code_references_point_to_the_stage_and_the_asset(demo: Pipeline) -> None:
    entries = definition_metadata(demo.profile, demo.graph["raw_shards"], None, few_samples_are_bad)
    references = entries["dagster/code_references"].code_references
    assert [reference.label for reference in references] == ["stage", "few samples are bad"]
    stage, check = references
    assert stage.file_path.endswith("stages/raw_shards.py") and Path(stage.file_path).is_file()
    line = Path(check.file_path).read_text().splitlines()[check.line_number - 1]
    assert line.startswith("def few_samples_are_bad(")


@pytest.mark.parametrize("key", ["caption_corpus/labels", "student/plain", "teacher_embeddings/lite0/text"])
def test_every_stage_has_a_source_file(demo: Pipeline, key: str) -> None:
    (stage,) = definition_metadata(demo.profile, demo.graph[key])["dagster/code_references"].code_references
    assert Path(stage.file_path).is_file() and Path(stage.file_path).stem == key.partition("/")[0]


def test_uri_converts_paths_and_keeps_urls() -> None:
    assert uri("/a b/c") == "file:///a%20b/c" and uri("s3://bucket/x") == "s3://bucket/x"


def test_a_training_shows_its_last_metrics_and_its_curve(
    materialized: Callable[..., Pipeline], png_of: Callable[[object], str], shown_at_once: Callable[[object], bool]
) -> None:
    pipeline = materialized("student/plain")
    entries = training_metadata(pipeline, pipeline.materialize("student/plain"))
    assert entries["step"] == 4 and {"loss", "lr"} <= set(entries)
    assert png_of(entries["loss_curve"]) == "![loss](" and shown_at_once(entries["loss_curve_preview"])
    assert Path(entries["training_log"].path).is_file()


def test_a_training_links_to_the_tensorboard_of_the_profile(materialized: Callable[..., Pipeline]) -> None:
    shared = materialized("student/plain")
    profile = shared.profile.model_copy(update={"tensorboard": "http://127.0.0.1:6006/"})
    pipeline = Pipeline(profile)
    entries = training_metadata(pipeline, pipeline.materialize("student/plain"))
    assert entries["tensorboard"].url == "http://127.0.0.1:6006/"


def test_a_model_without_training_has_no_curve(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("teacher/wide")
    assert training_metadata(pipeline, pipeline.materialize("teacher/wide")) == {}
