"""The ledger's files in git, written from the store. They are small, deterministic and readable in a diff."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mobileclip2.engine.graph import Asset
from mobileclip2.engine.lineage import LINEAGE
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.results import MetricName, main_name
from mobileclip2.ledger import paths
from mobileclip2.ledger.params import declared_by_name
from mobileclip2.ledger.stages import evaluated_on, files_in_git, ledger_folder
from mobileclip2.models.hub import TOKENIZER_FILES
from mobileclip2.report.sheets import training_records
from mobileclip2.stages.stored_results import stored_results
from mobileclip2.store import Artifact
from mobileclip2.store.storage import atomic_path, file_sha256

MAX_ROWS = 200
"""maximum rows of a curve; a longer training is sampled at every n-th step"""

CHECKPOINT = "open_clip_"
"""prefix of the configuration and the weights that plain open_clip reads"""


def write_asset(pipeline: Pipeline, asset: Asset) -> None:
    """Write the ledger's files of an asset. Delete them, except a checkpoint, if the asset is not current."""
    folder = ledger_folder(pipeline.profile)
    texts = _texts(pipeline, asset) if pipeline.is_current(asset.key) else {}
    for path in files_in_git(pipeline.profile, asset).values():
        if path in texts:
            write_text(folder / path, texts[path])
        else:
            (folder / path).unlink(missing_ok=True)
    if texts and asset.stage == "student":
        (artifact,) = pipeline.read(asset.key)
        _copy_checkpoint(artifact, folder / paths.checkpoint_folder(asset.name))


def write_params(pipeline: Pipeline) -> None:
    """Write the fields that the assets of a profile declare."""
    text = json.dumps(declared_by_name(pipeline.profile), indent=1, ensure_ascii=False) + "\n"
    write_text(ledger_folder(pipeline.profile) / paths.params_file(pipeline.profile), text)


def write_text(path: Path, text: str) -> None:
    """Write a file unless it already has this text, so that its time of modification stays."""
    if not path.is_file() or path.read_text() != text:
        with atomic_path(path) as temporary:
            temporary.write_text(text)


def delete_unknown(pipeline: Pipeline) -> None:
    """Delete the ledger's files of assets that the profile no longer has."""
    profile = pipeline.profile
    known = {paths.params_file(profile)}
    known.update(path for asset in pipeline.graph.values() for path in files_in_git(profile, asset).values())
    folder = ledger_folder(profile)
    for path in sorted((folder / paths.root(profile)).rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _texts(pipeline: Pipeline, asset: Asset) -> dict[str, str]:
    """Return path -> content of the files in git for a current asset."""
    files = files_in_git(pipeline.profile, asset)
    texts = {files["outputs"]: _outputs(pipeline, asset)}
    if "loss" in files:
        records = training_records(pipeline, asset.key)
        texts[files["loss"]] = _losses(records)
        if "accuracy" in files:
            texts[files["accuracy"]] = _accuracies(records, evaluated_on(pipeline.profile, asset))
    if "metrics" in files:
        texts[files["metrics"]] = _metrics(pipeline, asset)
    return texts


def _outputs(pipeline: Pipeline, asset: Asset) -> str:
    """Format one line for each output, so that a diff shows which group and slice changed."""
    lines = []
    for artifact in pipeline.read(asset.key):
        summary = artifact.summary
        external = {role: summary.inputs[role] for role in asset.slices[summary.part].externals}
        output = {
            **({"group": summary.group} if summary.group else {}),
            "part": summary.part,
            "fingerprint": summary.fingerprint,
            "data_version": summary.data_version,
            "samples": summary.samples,
            "skipped": summary.skipped,
            "bytes": summary.size,
            "path": artifact.prefix,
            **({"outside": external} if external else {}),
        }
        lines.append(f"  {json.dumps(output)}")
    names = json.dumps({"asset": asset.key, "code_version": asset.code_version})
    return f'{names[:-1]}, "outputs": [\n' + ",\n".join(lines) + "\n]}\n"


def _metrics(pipeline: Pipeline, asset: Asset) -> str:
    """Format ``{set: {metric: value}}`` without undefined metrics."""
    metrics = {
        result.key: {name: value for name, value in result.metrics.items() if value is not None}
        for result in stored_results(pipeline, asset.name)
    }
    return json.dumps(metrics, indent=1) + "\n"


def _losses(records: Sequence[Mapping[str, Any]]) -> str:
    """Format step, loss and learning rate of at most :data:`MAX_ROWS` steps. The last step is always included."""
    names = ["step", "loss", "lr"]
    stride = -(-len(records) // MAX_ROWS)
    sampled = [record for number, record in enumerate(records, 1) if number % stride == 0 or number == len(records)]
    return _csv(names, ([record[name] for name in names] for record in sampled[-MAX_ROWS:]))


def _accuracies(records: Iterable[Mapping[str, Any]], sets: list[str]) -> str:
    """Format the main metric of every set for each step that was evaluated."""
    rows = []
    for record in records:
        row = [record["step"]]
        for name in sets:
            measured = ((MetricName.parse(key), value) for key, value in record.items())
            metrics = {key.metric: value for key, value in measured if key.set == name}
            if main := main_name(name, metrics):
                row.append(metrics[main])
        if len(row) == 1 + len(sets):
            rows.append(row)
    return _csv(["step", *sets], rows)


def _csv(names: list[str], rows: Iterable[Sequence[Any]]) -> str:
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(names)
    table.writerows(rows)
    return written.getvalue()


def _copy_checkpoint(student: Artifact, folder: Path) -> None:
    """Copy a checkpoint. With a link, a user's changes to the copy would change the store."""
    files = [
        file for file in student.manifest.files if file.name.startswith(CHECKPOINT) or file.name in TOKENIZER_FILES
    ]
    lineage = [LINEAGE] if student.has(LINEAGE) else []
    for path in folder.iterdir() if folder.is_dir() else []:
        if path.name not in [*lineage, *(file.name for file in files)]:
            path.unlink()
    for file in files:
        path = folder / file.name
        if not (path.is_file() and path.stat().st_size == file.size and file_sha256(path) == file.sha256):
            with atomic_path(path) as temporary:
                shutil.copyfile(student.fetch(file.name), temporary)
    for name in lineage:
        write_text(folder / name, student.read(name).decode())
