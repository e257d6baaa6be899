"""Trace the lineage of outputs through a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mobileclip2.engine.graph import Asset, Slice
from mobileclip2.engine.lineage import Lineage, Node, node_id
from mobileclip2.engine.pipeline import Pipeline, Task
from mobileclip2.errors import DamagedOutput, UserError


def lineage(pipeline: Pipeline, works: Sequence[Task]) -> Lineage:
    """Trace parts of one asset that are finished, or whose inputs all are.

    Raises:
        DamagedOutput: something that it was made from is there no longer.
    """
    nodes: dict[str, Node] = {}
    for work in works:
        _add(pipeline, work, nodes)
    return Lineage(asset=works[0].asset.key, nodes=nodes)


def lineage_of(pipeline: Pipeline, key: str) -> Lineage:
    """Trace a finished asset with all its parts and groups.

    Raises:
        UserError: it is not materialized.
    """
    asset = pipeline.graph[key]
    if any(pipeline.missing(asset, group) for group in pipeline.groups(asset)):
        raise UserError(f"{key}: not materialized yet; run 'mobileclip2 run'")
    works = [
        pipeline.part_work(asset, part, group)
        for group in pipeline.groups(asset)
        for part in asset.parts_of(group).values()
    ]
    return lineage(pipeline, [work for work in works if work])


def _add(pipeline: Pipeline, work: Task, nodes: dict[str, Node]) -> None:
    made_from: dict[str, str] = {}
    for place, upstream, part, group in _upstream(pipeline, work):
        made_from[place] = node_id(upstream.key, part.name, group)
        if made_from[place] not in nodes:
            above = pipeline.part_work(upstream, part, group)
            if above is None:
                raise _lost(upstream.key)
            _add(pipeline, above, nodes)
    made_from.update({role: work.versions[role] for role in work.part.externals})
    node = Node(
        asset=work.asset.key,
        part=work.part.name,
        group=work.group,
        fingerprint=work.fingerprint,
        code_version=work.asset.code_version,
        path=work.output.prefix,
        made_from=made_from,
    )
    nodes[node.id] = node


def _upstream(pipeline: Pipeline, work: Task) -> Iterator[tuple[str, Asset, Slice, str | None]]:
    for role, source in work.part.inputs.items():
        for place, upstream, head, group in pipeline.sources(work.asset, work.group, role, source):
            if head is None:
                raise _lost(upstream.key)
            yield place, upstream, upstream.parts[head.part], group


def _lost(key: str) -> DamagedOutput:
    return DamagedOutput(f"{key}: it is gone or damaged since it was read; run again, it is computed anew")
