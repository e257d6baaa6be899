from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.asset_definitions import stages
from pipelines.pipeline_resource import PipelineResource


def compute(definitions: dg.Definitions, instance: dg.DagsterInstance, **config: str) -> None:
    definitions.get_repository_def().get_implicit_global_asset_job_def().execute_in_process(
        {"resources": {"pipeline": {"config": config}}} if config else None,
        instance=instance,
        asset_selection=[dg.AssetKey("raw_shards")],
        partition_key="g00",
    )


def test_the_resource_configuration_is_the_profile_path(tiny: Path) -> None:
    resource = (stages(load(tiny)).resources or {})["pipeline"]
    assert isinstance(resource, PipelineResource) and resource.profile == str(tiny)
    (field,) = resource.get_resource_definition().config_schema.as_field().config_type.fields
    assert field == "profile"


def test_a_run_with_another_profile_is_refused(tiny: Path, instance: dg.DagsterInstance) -> None:
    other = tiny.with_name("other.yaml")
    other.write_text(tiny.read_text())
    with pytest.raises(dg.DagsterResourceFunctionError) as failure:
        compute(stages(load(tiny)), instance, profile=str(other))
    assert f"defines the assets of {tiny}, not of '{other}'; remove the value" in str(failure.value.__cause__)
    pipeline = Pipeline(load(tiny))
    assert pipeline.missing(pipeline.graph["raw_shards"], "g00"), "nothing was computed"


def test_a_run_uses_the_profile_as_it_was_loaded(tiny: Path, instance: dg.DagsterInstance) -> None:
    definitions, loaded = stages(load(tiny)), Pipeline(load(tiny))
    tiny.write_text("broken: [")
    compute(definitions, instance, profile=str(tiny))
    assert loaded.read("raw_shards", "g00")
