"""Metadata that every asset has, in the terms of Dagster: rows, size, location in the store, columns, code and slices."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

import mobileclip2
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import DEFAULT_SLICE, Asset
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline
from mobileclip2.store.artifact import artifact_prefix

if TYPE_CHECKING:
    from mobileclip2.report.sheets import Sheet

SLICES = (
    dg.TableColumn("slice"),
    dg.TableColumn("samples", "int"),
    dg.TableColumn("skipped", "int"),
    dg.TableColumn("reused", "bool", description="stored before this run"),
    dg.TableColumn("fingerprint"),
)


def definition_metadata(profile: Profile, asset: Asset, *functions: Callable[..., Any] | None) -> dict[str, Any]:
    """Return the metadata of a definition: its folder in the store, its code, and the fields that its fingerprint covers.

    Args:
        functions: Functions of the asset's module, which the code references point to.
    """
    declared = {name: slice_.declared for name, slice_ in asset.slices.items()}
    return {
        "dagster/uri": uri(f"{profile.locate(profile.store)}/{asset.key}"),
        "dagster/code_references": _code_references(asset, *functions),
        "declared": declared.get(DEFAULT_SLICE, declared),
    }


def _code_references(asset: Asset, *functions: Callable[..., Any] | None) -> dg.CodeReferencesMetadataValue:
    stage = Path(mobileclip2.__file__).parent / "stages" / f"{asset.stage}.py"
    references = [dg.LocalFileCodeReference(file_path=str(stage), label="stage")]
    for function in filter(None, functions):
        code = inspect.unwrap(function).__code__
        label = function.__name__.replace("_", " ")
        references.append(
            dg.LocalFileCodeReference(file_path=code.co_filename, line_number=code.co_firstlineno, label=label)
        )
    return dg.CodeReferencesMetadataValue(code_references=references)


def uri(location: str) -> str:
    """Return the address of a file or folder. A path becomes a ``file://`` URI."""
    return location if "://" in location else Path(location).as_uri()


def link(location: str) -> dg.MetadataValue[Any]:
    """Return the entry of a file or folder: a link if it is a URL, or a path with a button that copies it."""
    return dg.MetadataValue.url(location) if "://" in location else dg.MetadataValue.path(location)


def table(columns: Sequence[dg.TableColumn], rows: Iterable[Iterable[Any]]) -> dg.TableMetadataValue:
    """Return a table."""
    names = [column.name for column in columns]
    records = [dg.TableRecord(dict(zip(names, row, strict=True))) for row in rows]
    return dg.MetadataValue.table(records, dg.TableSchema(list(columns)))


def pictures(**sheets: Sheet) -> dict[str, dg.MetadataValue]:
    """Return two entries for each sheet: a preview, which Dagster shows at once, and the sheet, which it shows after a click."""
    entries: dict[str, dg.MetadataValue] = {}
    for name, sheet in sheets.items():
        entries |= {f"{name}_preview": dg.MetadataValue.md(sheet.preview), name: dg.MetadataValue.md(sheet.sheet)}
    return entries


def result_metadata(pipeline: Pipeline, result: MaterializeResult) -> dict[str, Any]:
    """Return the metadata of a materialization: counts, rates, skip reasons, columns, slices and facts."""
    from mobileclip2.report.sheets import columns

    summaries = result.summaries
    entries: dict[str, Any] = {
        "dagster/uri": uri(folder(pipeline, result)),
        "dagster/size_bytes": sum(summary.size for summary in summaries.values()),
        "samples": result.samples,
        "skipped": sum(result.skip_reasons.values()),
        "seconds": round(result.seconds, 2),
        "data_version": result.data_version,
        "reused": not result.computed,
    }
    if schema := columns(pipeline, result):
        entries["dagster/column_schema"] = dg.TableSchema(
            columns=[
                dg.TableColumn(name, kind, constraints=dg.TableColumnConstraints(nullable=nullable))
                for name, kind, nullable in schema
            ]
        )
        entries["dagster/row_count"] = result.samples
        if result.group:
            entries["dagster/partition_row_count"] = result.samples
    if result.computed:
        samples = sum(summaries[name].samples for name in result.computed)
        entries["samples_per_second"] = round(samples / max(result.seconds, 1e-3), 1)
    if result.skip_reasons:
        entries["skip_reasons"] = dg.MetadataValue.json(result.skip_reasons)
    if len(summaries) == 1:
        entries["fingerprint"] = next(iter(summaries.values())).fingerprint
    else:
        rows = (
            (name, summary.samples, summary.skipped, name not in result.computed, summary.fingerprint)
            for name, summary in summaries.items()
        )
        entries["slices"] = table(SLICES, rows)
    return entries | _facts(result)


def training_metadata(pipeline: Pipeline, result: MaterializeResult) -> dict[str, object]:
    """Return the last metrics of a training and its loss curve. The result is empty for a model that was not trained."""
    from mobileclip2.report.sheets import training_curve

    (summary,) = result.summaries.values()
    if "metrics.jsonl" not in (summary.watched or []):
        return {}
    board = pipeline.profile.tensorboard
    numbers, curve = training_curve(pipeline, result.asset.key, result.group)
    return {
        **pictures(loss_curve=curve),
        **numbers,
        "training_log": link(f"{folder(pipeline, result)}/metrics.jsonl"),
        **({"tensorboard": dg.MetadataValue.url(board)} if board else {}),
    }


def folder(pipeline: Pipeline, result: MaterializeResult) -> str:
    """Return the path or URL of the output's folder, or of the asset's folder if it has several outputs."""
    prefixes = [artifact_prefix(each.asset, each.fingerprint, each.group) for each in result.summaries.values()]
    return f"{pipeline.storage.url}/{prefixes[0] if len(prefixes) == 1 else result.asset.key}"


def _facts(result: MaterializeResult) -> dict[str, Any]:
    """Return the facts on which all slices agree, so that numbers are plotted. ``samples`` has an entry already."""
    first, *others = (summary.facts for summary in result.summaries.values())
    return {
        name: value if isinstance(value, str | int | float) else dg.MetadataValue.json(value)
        for name, value in first.items()
        if name != "samples" and all(other.get(name) == value for other in others)
    }
