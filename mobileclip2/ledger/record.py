"""Write the ledger of the materialized assets. Nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from mobileclip2.asset_key import AssetKey
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import selected
from mobileclip2.errors import LedgerError
from mobileclip2.ledger.dvc import check_repository, dvc
from mobileclip2.ledger.files import delete_unknown, write_asset, write_params, write_text
from mobileclip2.ledger.paths import PIPELINE, stage_name
from mobileclip2.ledger.stages import header, ledger_folder, pipeline_text


@dataclass(frozen=True)
class Recorded:
    """Assets of the profile by their state in the ledger."""

    current: list[AssetKey]
    """keys of the assets that are recorded"""
    missing: list[AssetKey]
    """keys of the assets that must be computed first"""


def record(pipeline: Pipeline) -> Recorded:
    """Update ``dvc.yaml``, the ledger's files and ``dvc.lock``. A second call changes no byte.

    ``dvc.lock`` keeps the old entry of an asset that must be computed, so that ``dvc status`` reports it.

    Raises:
        LedgerError: The profile has no ledger, or DVC cannot be used in its folder.
    """
    if pipeline.profile.ledger is None:
        raise LedgerError(
            f"{pipeline.profile.file}: the profile has no ledger; set 'ledger' to a folder of a git repository"
        )
    folder = ledger_folder(pipeline.profile)
    check_repository(folder)
    _check_owner(pipeline, folder)
    pipeline.forget()
    text = pipeline_text(pipeline.profile, pipeline.graph)
    names = {stage_name(asset.key) for asset in pipeline.graph.values()}
    removed = [name for name in _stages(folder) if name not in names]
    if removed:
        dvc(folder, "remove", "--outs", *removed)
    write_text(folder / PIPELINE, text)
    write_files(pipeline)
    delete_unknown(pipeline)
    current = [asset.key for asset in pipeline.graph.values() if pipeline.is_current(asset.key)]
    missing = [asset.key for asset in pipeline.graph.values() if asset.key not in current]
    if current:
        dvc(folder, "commit", "--force", *(map(stage_name, current) if missing else []))
    return Recorded(current, missing)


def write_files(pipeline: Pipeline, only: list[str] | None = None) -> None:
    """Write only the ledger's files, of all assets or of ``only`` and their upstream assets."""
    write_params(pipeline)
    for key in selected(pipeline, only):
        write_asset(pipeline, pipeline.graph[key])


def _check_owner(pipeline: Pipeline, folder: Path) -> None:
    path = folder / PIPELINE
    if path.exists() and not path.read_bytes().startswith(header(pipeline.profile).encode()):
        raise LedgerError(
            f"{path}: it belongs to another profile or was written by hand; "
            f"set 'ledger' in {pipeline.profile.file} to another folder"
        )


def _stages(folder: Path) -> list[str]:
    """Return the stages in ``dvc.yaml``. The list is empty if the file is missing or a merge left it unreadable."""
    try:
        return list(yaml.safe_load((folder / PIPELINE).read_text())["stages"])
    except (FileNotFoundError, yaml.YAMLError, LookupError, RecursionError, TypeError, ValueError):
        return []
