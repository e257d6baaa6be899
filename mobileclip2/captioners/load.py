"""Build and load captioners."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mobileclip2.captioners.coca import coca_of, small_coca
from mobileclip2.config.captioner import Captioner, CoCaConfig
from mobileclip2.models.build import build, from_config, initialize_decoder
from mobileclip2.models.checkpoint import load_weights, read_state
from mobileclip2.models.image_text import ImageText

SMALL = "small_coca"


def build_captioner(
    captioner: Captioner, weights_file: Path | None = None, *, commits: Mapping[str, str] | None = None, seed: int
) -> ImageText:
    """Build the captioner of a profile with random or published weights.

    Raises:
        WeightsError: the weights are missing, differ from the pinned ones, or do not fit.
    """
    if captioner.small is None:
        assert captioner.model is not None
        built = build(captioner.model, weights_file, commits=commits, seed=seed)
        if not captioner.model.weights and not (captioner.model.open_clip or "").startswith("hf-hub:"):
            initialize_decoder(coca_of(built)[0])
        return built
    trunk_state = read_state(weights_file) if weights_file else None
    return small_coca(captioner.small, trunk_state=trunk_state, seed=seed)


def load_captioner(config_file: Path, weights_file: Path) -> ImageText:
    """Load a captioner that :func:`mobileclip2.models.build.save` wrote."""
    config = json.loads(config_file.read_text())
    if SMALL in config:
        captioner = small_coca(CoCaConfig.model_validate(config[SMALL]))
    else:
        captioner = from_config(config)
    load_weights(captioner.model, read_state(weights_file), str(weights_file))
    return captioner
