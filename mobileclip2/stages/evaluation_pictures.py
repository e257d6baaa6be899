"""Find pictures of the evaluation sets among the samples of a group, by the hash of their bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mobileclip2.config.sources import EvaluationSource
from mobileclip2.data import sidecar
from mobileclip2.engine.external import Folder
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline, Verdict
from mobileclip2.errors import UserError
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.stages.data_checks import artifacts, paths

FOLDER = ".checks/pictures"
"""folder of the store with the hashes of each version of an evaluation set"""

HASHES = sidecar.required(key=pa.string(), sha256=pa.string())


def no_evaluation_pictures(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Compare the number of samples whose picture is in an evaluation set with ``checks.evaluation_pictures``.

    A picture that was resized or encoded again is not found. ``select.decontaminate`` finds it by its embedding.
    """
    profile = pipeline.profile
    limit = profile.checks.evaluation_pictures
    if limit is None:
        return Verdict(True, "not judged: checks.evaluation_pictures is null")
    removed = profile.select.decontaminate if profile.select else ()
    compared = [source for source in profile.evaluation if source.name not in removed]
    (artifact,) = artifacts(pipeline, result)
    trained = pa.concat_tables([HASHES.empty_table(), *(sidecar.read(path, HASHES) for path in paths(artifact))])
    found: dict[str, list[str]] = {}
    unread = []
    for source in compared:
        hashes = _hashes(pipeline, source)
        if hashes is None:
            unread.append(source.name)
        elif keys := trained.filter(pc.is_in(trained.column("sha256"), hashes)).column("key").to_pylist():
            found[source.name] = keys
    count = len({key for keys in found.values() for key in keys})
    examples = "; ".join(f"{len(keys)} of {name}, such as {keys[0]}" for name, keys in found.items())
    description = f"{count} samples have a picture of an evaluation set{f': {examples}' if found else ''}"
    left_out = f"; not compared, because they are in a bucket or cannot be read: {', '.join(unread)}" if unread else ""
    return Verdict(count <= limit, description + left_out, {"evaluation_pictures": count})


def _hashes(pipeline: Pipeline, source: EvaluationSource) -> pa.Array | None:
    """Return the hashes of the pictures of a set, or None if it is in a bucket or cannot be read."""
    folder = pipeline.profile.locate(source.url)
    if "://" in folder:
        return None
    try:
        key = f"{FOLDER}/{pipeline.inventory.digest(Folder(source.url), None)}.txt"
    except UserError:
        return None
    if not pipeline.storage.exists(key):
        try:
            pictures = (sample.image for sample in EvaluationSet(source.name, Path(folder)).samples() if sample.image)
            lines = dict.fromkeys(hashlib.sha256(picture).hexdigest() for picture in pictures)
        except UserError:
            return None
        pipeline.storage.write(key, "\n".join(lines).encode())
    return pa.array(pipeline.storage.read(key).decode().split(), pa.string())
