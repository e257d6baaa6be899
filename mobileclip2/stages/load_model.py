"""Load a teacher or student from the output of its asset."""

from __future__ import annotations

from mobileclip2.engine.pipeline import Artifact
from mobileclip2.engine.source_inventory import SourceInventory
from mobileclip2.models.build import CONFIG, WEIGHTS, load
from mobileclip2.models.hub import TOKENIZER_FILES
from mobileclip2.models.image_text import ImageText
from mobileclip2.teachers.locked import PROJECTIONS, SPEC, load_locked


def load_image_text(stored: Artifact, contents: SourceInventory) -> ImageText:
    """Load the model of a finished ``teacher/...`` or ``student/...``."""
    if SPEC in {file.name for file in stored.manifest.files}:
        spec = contents.profile.teacher(stored.head.asset.partition("/")[2]).locked
        assert spec is not None
        return load_locked(spec, stored.fetch(PROJECTIONS), *contents.tower_weights(spec))
    tokenizer = [stored.fetch(file.name) for file in stored.manifest.files if file.name in TOKENIZER_FILES]
    return load(stored.fetch(CONFIG), stored.fetch(WEIGHTS), tokenizer)
