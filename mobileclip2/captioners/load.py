"""Build, save and load captioners."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mobileclip2.captioners.coca import coca_of, initialize_decoder, small_coca
from mobileclip2.config.captioner import Captioner
from mobileclip2.config.captioner_model import CoCaConfig
from mobileclip2.models.build import CONFIG, WEIGHTS, build, from_config
from mobileclip2.models.checkpoint import load_weights, read_state
from mobileclip2.models.efficientnet_lite import efficientnet_lite_state
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.tensors import write_tensors

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
    trunk_state = None
    if weights_file:
        import timm

        state = read_state(weights_file)
        trunk_state = efficientnet_lite_state(state, timm.create_model(captioner.small.trunk, num_classes=0))
    return small_coca(captioner.small, trunk_state=trunk_state, seed=seed)


def save_captioner(captioner: ImageText, folder: Path) -> None:
    """Write the configuration and the weights of a captioner to ``folder``."""
    (folder / CONFIG).write_text(json.dumps(captioner.config, indent=1, sort_keys=True) + "\n")
    write_tensors(folder / WEIGHTS, captioner.model.state_dict())


def load_captioner(config_file: Path, weights_file: Path) -> ImageText:
    """Load a captioner that :func:`save_captioner` wrote."""
    config = json.loads(config_file.read_text())
    if SMALL in config:
        captioner = small_coca(CoCaConfig.model_validate(config[SMALL]))
    else:
        captioner = from_config(config)
    load_weights(captioner.model, read_state(weights_file), str(weights_file))
    return captioner
