"""Build the model of a profile, or load a teacher or student from the output of its asset."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from mobileclip2.config.model import Model
from mobileclip2.config.teacher import Locked
from mobileclip2.engine.source_inventory import SourceInventory
from mobileclip2.models.build import CONFIG, WEIGHTS, build, load
from mobileclip2.models.hub import TOKENIZER_FILES
from mobileclip2.models.image_text import ImageText
from mobileclip2.store import Artifact
from mobileclip2.store.storage import temporary_files
from mobileclip2.teachers.hub_towers import WEIGHT_FILES
from mobileclip2.teachers.locked import PROJECTIONS, SPEC, load_locked

VIEWS = "view_cfg"
"""key of a stored configuration that says how the views of the training were rendered; open_clip ignores it"""


def build_image_text(model: Model | None, inventory: SourceInventory, seed: int = 0) -> ImageText:
    """Build the ``model`` of a teacher or student with its weights, or with random weights of ``seed``."""
    assert model is not None
    return build(model, inventory.weights_file(model.weights), commits=inventory.hub.recorded(model), seed=seed)


def load_image_text(stored: Artifact, inventory: SourceInventory) -> ImageText:
    """Load the model of a finished ``teacher/...`` or ``student/...``."""
    if SPEC in {file.name for file in stored.manifest.files}:
        spec = inventory.profile.teacher(stored.summary.asset.name).locked
        assert spec is not None
        return _load_locked(spec, stored, inventory)
    tokenizer = [stored.fetch(file.name) for file in stored.manifest.files if file.name in TOKENIZER_FILES]
    image_text = load(stored.fetch(CONFIG), stored.fetch(WEIGHTS), tokenizer)
    config = json.loads(stored.fetch(CONFIG).read_text())
    if VIEWS in config:
        image_text.config[VIEWS] = config[VIEWS]
    return image_text


def _load_locked(spec: Locked, stored: Artifact, inventory: SourceInventory) -> ImageText:
    """Load a locked teacher. Towers from the hub are files of the artifact, and others are where the profile says."""
    trunk, text = inventory.tower_weights(spec)
    with temporary_files(), tempfile.TemporaryDirectory() as temporary:
        for name in (file.name for file in stored.manifest.files):
            if Path(name).stem == "trunk":
                trunk = stored.fetch(name)
            elif name.startswith("text/"):
                copy = Path(temporary) / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                # a bucket's files have a folder each
                copy.symlink_to(stored.fetch(name).resolve())
                if copy.name in WEIGHT_FILES:
                    text = copy
        assert trunk and text
        return load_locked(spec, stored.fetch(PROJECTIONS), trunk, text)
