"""Trace the lineage of outputs through a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mobileclip2.engine.graph import Asset, Slice
from mobileclip2.engine.lineage import Lineage, Node, node_id
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
    """Trace a finished asset with all its parts and groups.

    Raises:
        UserError: the asset is not materialized.
    """
    asset = pipeline.graph[key]
    if any(pipeline.missing(asset, group) for group in pipeline.groups(asset)):
        raise UserError(f"{key}: not materialized yet; run 'mobileclip2 run'")
    tasks = [
        pipeline.task_for(asset, part, group)
        for group in pipeline.groups(asset)
        for part in asset.parts_of(group).values()
    ]
    return lineage(pipeline, [task for task in tasks if task])


def _add(pipeline: Pipeline, task: Task, nodes: dict[str, Node]) -> None:
    made_from: dict[str, str] = {}
    for input_name, upstream, part, group in _upstream(pipeline, task):
        made_from[input_name] = node_id(upstream.key, part.name, group)
        if made_from[input_name] not in nodes:
            upstream_task = pipeline.task_for(upstream, part, group)
            if upstream_task is None:
                raise _missing_input(upstream.key)
            _add(pipeline, upstream_task, nodes)
    made_from.update({role: task.versions[role] for role in task.part.externals})
    node = Node(
        asset=task.asset.key,
        part=task.part.name,
        group=task.group,
        fingerprint=task.fingerprint,
        code_version=task.asset.code_version,
        path=task.output.prefix,
        made_from=made_from,
    )
    nodes[node.id] = node


def _upstream(pipeline: Pipeline, task: Task) -> Iterator[tuple[str, Asset, Slice, str | None]]:
    for role, source in task.part.inputs.items():
        for input_name, upstream, head, group in pipeline.sources(task.asset, task.group, role, source):
            if head is None:
                raise _missing_input(upstream.key)
            yield input_name, upstream, upstream.parts[head.part], group


def _missing_input(key: str) -> DamagedOutput:
    return DamagedOutput(f"{key}: it was deleted or damaged after it was read; run again to recompute it")
