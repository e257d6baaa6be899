from __future__ import annotations

from pathlib import Path

import dagster as dg

from assets.keys import library_key
from mobileclip2.config.profile import load
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.progress import Step
from pipelines.asset_definitions import executor, stages
from pipelines.profiles import PROFILES


def test_every_asset_of_the_graph_is_defined_once() -> None:
    for name in ("demo", "ablation", "fine-tune"):
        profile = load(PROFILES / f"{name}.yaml")
        graph = stages(profile).resolve_asset_graph()
        assert {library_key(key) for key in graph.materializable_asset_keys} == set(build_graph(profile))


def test_steps_run_in_the_process_of_the_run_except_in_a_cluster(tiny: Path) -> None:
    assert executor(load(tiny)) is dg.in_process_executor
    tiny.write_text(f"{tiny.read_text()}\ncompute: {{kubernetes: {{image: i}}}}\n")
    assert executor(load(tiny)).name == "k8s"


def test_a_run_sees_other_processes_changes_and_reports_its_steps(tiny: Path, instance: dg.DagsterInstance) -> None:
    steps: list[Step] = []
    definitions = stages(load(tiny), steps.append)
    job = definitions.get_repository_def().get_implicit_global_asset_job_def()
    Pipeline(load(tiny)).materialize("raw_shards", "g00")
    for group in ("g00", "g01"):
        result = job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("raw_shards")], partition_key=group
        )
        assert result.success
    assert [(step.done, step.total) for step in steps] == [(1, 2), (2, 2)], "the first group was already stored"
