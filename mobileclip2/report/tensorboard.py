"""The metrics of stored trainings as event files of TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import StoreError
from mobileclip2.extras import needs
from mobileclip2.report.sheets import training_records


def write_events(pipeline: Pipeline, folder: Path) -> list[str]:
    """Write a run for each stored training below ``folder``, and return the names of the runs.

    The name of a run is the key of its asset, and for a trial of a study also the trial. The steps are those of the training.
    Events of an earlier call are replaced.

    Raises:
        StoreError: the folder cannot be written.
        MissingExtra: tensorboardX is not installed.
    """
    with needs("tensorboard"):  # the rest of this package needs no extra
        from tensorboardX import SummaryWriter

    names = []
    for name, records in _trainings(pipeline):
        run = folder / name
        try:
            for earlier in run.glob("events.out.tfevents.*"):
                earlier.unlink()
            with SummaryWriter(str(run)) as writer:
                for record in records:
                    for metric, value in record.items():
                        if metric != "step":
                            writer.add_scalar(metric, value, int(record["step"]))
        except OSError as error:
            raise StoreError(f"{run}: {error.strerror}; give a folder that can be written") from None
        names.append(name)
    return names


def _trainings(pipeline: Pipeline) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for asset in pipeline.graph.values():
        if asset.trains:
            for group in pipeline.groups(asset):
                if not pipeline.missing(asset, group) and (records := training_records(pipeline, asset.key, group)):
                    yield "/".join(filter(None, (asset.key, group))), records
