"""Load a model by the name that a user knows: a folder, an open_clip model, or a model of the profile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mobileclip2.api.model import ImageTextModel
from mobileclip2.config.model import Model, Weights
from mobileclip2.errors import UserError
from mobileclip2.models import build
from mobileclip2.models.device import choose_device
from mobileclip2.names import find

if TYPE_CHECKING:
    from mobileclip2.engine.pipeline import Pipeline

PROFILE = "mobileclip2.yaml"
"""name of the profile in the current folder"""


def load(
    name: str | os.PathLike[str], *, profile: str | os.PathLike[str] | None = None, device: str = "auto"
) -> ImageTextModel:
    """Load an image-text model.

    Args:
        name: one of

            - a folder of a stored model: a student's output, or ``mobileclip2 export --format openclip``,
            - an open_clip architecture and tag, ``MobileCLIP2-S0:dfndr2b``,
            - a model of the hub, ``hf-hub:apple/MobileCLIP-S1-OpenCLIP``,
            - a student or teacher of the profile, ``student/mine``.
        profile: path of the profile; by default, that of ``MOBILECLIP2_PROFILE``, or ``mobileclip2.yaml`` in the current folder.
        device: ``auto``, ``cpu``, ``cuda`` or another device of torch.

    Raises:
        UserError: no such model exists. The message says what was tried.
    """
    text, chosen = os.fspath(name), choose_device(device)
    folder = Path(text)
    if os.path.isdir(text):  # noqa: PTH112 - False for a name that is too long
        config, weights = folder / build.CONFIG, folder / build.WEIGHTS
        if not config.is_file() or not weights.is_file():
            raise UserError(f"{folder}: no stored model; the folder must hold {build.CONFIG} and {build.WEIGHTS}")
        return ImageTextModel(build.load(config, weights), folder.resolve().name, chosen)
    if text.startswith("hf-hub:"):
        return ImageTextModel(build.build(Model(open_clip=text)), text, chosen)
    if ":" in text:
        architecture, _, tag = text.partition(":")
        with _rejected_as(text):
            model = Model(open_clip=architecture, weights=Weights(tag=tag))
        return ImageTextModel(build.build(model), text, chosen)
    file = Path(profile or os.environ.get("MOBILECLIP2_PROFILE") or PROFILE)
    if not file.is_file():
        raise UserError(
            f"{text}: neither a folder nor 'architecture:tag' nor 'hf-hub:...'; for a model of a profile, change to the "
            f"folder of {PROFILE} or set MOBILECLIP2_PROFILE"
        )
    from mobileclip2.config.profile import load as load_profile
    from mobileclip2.engine.pipeline import Pipeline

    return load_from_pipeline(Pipeline(load_profile(file)), text, device=device)


def create(architecture: str | Mapping[str, Any], *, seed: int = 0, device: str = "auto") -> ImageTextModel:
    """Create an image-text model with random weights.

    Args:
        architecture: a name of open_clip, ``MobileCLIP2-S0``, or the ``model_cfg`` of an open_clip configuration.
        seed: seed of the weights.

    Raises:
        UserError: open_clip does not have the architecture, or cannot build it.
    """
    name = architecture if isinstance(architecture, str) else "model"
    with _rejected_as(name):
        model = Model(open_clip=name) if isinstance(architecture, str) else Model(config=dict(architecture))
    return ImageTextModel(build.build(model, seed=seed), name, choose_device(device))


def load_from_pipeline(pipeline: Pipeline, name: str, *, device: str = "auto") -> ImageTextModel:
    """Load a student or teacher that the pipeline has computed.

    Raises:
        UserError: the profile has no such model, or it is not materialized.
    """
    from mobileclip2.stages.load_model import load_image_text

    models = [asset.key for asset in pipeline.graph.values() if asset.stage in {"student", "teacher"}]
    try:
        key = find(name, models, "model")
    except UserError as error:
        raise UserError(f"{error} (profile {pipeline.profile.file})") from None
    (stored,) = pipeline.read(key)
    return ImageTextModel(load_image_text(stored, pipeline.inventory), key, choose_device(device))


@contextmanager
def _rejected_as(name: str) -> Iterator[None]:
    """Raise ``UserError`` if the settings of a model are invalid."""
    try:
        yield
    except ValidationError as error:
        reasons = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise UserError(f"{name}: {reasons}") from error
    except (TypeError, ValueError) as error:  # a configuration that is no mapping
        raise UserError(f"{name}: {error}") from error
