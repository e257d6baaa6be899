"""Writing the ledger of what is materialized, without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import selected
from mobileclip2.errors import LedgerError
from mobileclip2.ledger.dvc import check_repository, dvc
from mobileclip2.ledger.files import drop_unknown, is_current, write_asset, write_params, write_text
from mobileclip2.ledger.paths import PIPELINE, stage_name
from mobileclip2.ledger.stages import header, ledger_folder, pipeline_text


@dataclass(frozen=True)
class Recorded:
    """What the ledger says now."""

    current: list[str]
    """keys of the assets that it holds"""
    missing: list[str]
    """keys of those that must be computed first"""


def record(pipeline: Pipeline) -> Recorded:
    """Brings ``dvc.yaml``, the ledger's files and ``dvc.lock`` up to date; a second call changes no byte.

    ``dvc.lock`` keeps what it says of an asset that must be computed, so that ``dvc status`` names it.

    Raises:
        LedgerError: the profile names no ledger, or DVC cannot be used there; says what to do.
    """
    if pipeline.profile.ledger is None:
        raise LedgerError(f"{pipeline.profile.file}: it names no ledger; set 'ledger' to a folder of a git repository")
    folder = ledger_folder(pipeline.profile)
    check_repository(folder)
    _check_owner(pipeline, folder)
    pipeline.forget()
    text = pipeline_text(pipeline.profile, pipeline.graph)
    gone = [name for name in _stages(folder) if name not in yaml.safe_load(text)["stages"]]
    if gone:
        dvc(folder, "remove", "--outs", *gone)
    write_text(folder / PIPELINE, text)
    write_files(pipeline)
    drop_unknown(pipeline)
    current = [asset.key for asset in pipeline.graph.values() if is_current(pipeline, asset)]
    missing = [key for key in pipeline.graph if key not in current]
    if current:
        dvc(folder, "commit", "--force", *(map(stage_name, current) if missing else []))
    return Recorded(current, missing)


def write_files(pipeline: Pipeline, only: list[str] | None = None) -> None:
    """Write the ledger's files only, of all assets or of some and all they need."""
    write_params(pipeline)
    for key in selected(pipeline, only):
        write_asset(pipeline, pipeline.graph[key])


def _check_owner(pipeline: Pipeline, folder: Path) -> None:
    path = folder / PIPELINE
    if path.exists() and not path.read_text().startswith(header(pipeline.profile)):
        raise LedgerError(
            f"{path}: belongs to another profile or was written by hand; "
            f"point 'ledger' in {pipeline.profile.file} to another folder, or delete the file"
        )


def _stages(folder: Path) -> list[str]:
    """Stages that ``dvc.yaml`` has by now; none where a merge left it unreadable, it is written anew."""
    try:
        return list(yaml.safe_load((folder / PIPELINE).read_text())["stages"])
    except (FileNotFoundError, yaml.YAMLError):
        return []
