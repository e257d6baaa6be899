"""Trace the lineage of outputs through a pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from mobileclip2.asset_key import SliceKey
from mobileclip2.engine.lineage import Lineage, Node
from mobileclip2.engine.pipeline import Pipeline, Task
from mobileclip2.errors import DamagedOutput, UserError


def lineage(pipeline: Pipeline, tasks: Sequence[Task]) -> Lineage:
    """Trace the lineage of tasks of one asset. Their inputs must be finished.

    Raises:
        DamagedOutput: an input no longer exists.
    """
    nodes: dict[str, Node] = {}
    for task in tasks:
        _add(pipeline, task, nodes)
    return Lineage(asset=tasks[0].asset.key, nodes=nodes)


def lineage_of(pipeline: Pipeline, key: str) -> Lineage:
    """Trace a finished asset with all its slices and groups.

    Raises:
        UserError: the asset is not materialized.
    """
    asset = pipeline.graph[key]
    if not pipeline.is_current(key):
        raise UserError(f"{key}: not materialized yet; run 'mobileclip2 run'")
    tasks = [pipeline.task_for(asset, slice_, group) for slice_, group in pipeline.slices(asset)]
    return lineage(pipeline, [task for task in tasks if task])


def _add(pipeline: Pipeline, task: Task, nodes: dict[str, Node]) -> None:
    made_from: dict[str, str] = {}
    for source in pipeline.upstream_outputs(task.asset, task.slice, task.group):
        made_from[source.name] = str(SliceKey(source.asset.key, source.slice.name, source.group))
        if made_from[source.name] not in nodes:
            upstream = pipeline.task_for(source.asset, source.slice, source.group) if source.summary else None
            if upstream is None:
                raise DamagedOutput(
                    f"{source.asset.key}: it was deleted or damaged after it was read; run again to recompute it"
                )
            _add(pipeline, upstream, nodes)
    made_from.update({role: task.versions[role] for role in task.slice.externals})
    nodes[str(task.key)] = Node(
        **task.key._asdict(),
        fingerprint=task.fingerprint,
        code_version=task.asset.code_version,
        path=task.output.prefix,
        made_from=made_from,
    )
