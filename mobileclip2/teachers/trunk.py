"""Image trunks of timm as frozen towers: names, published weights, and conventions of preprocessing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import PretrainedCfg
from torch import nn

from mobileclip2.config.teacher import Locked
from mobileclip2.data.preprocess import Color, Preprocess
from mobileclip2.errors import WeightsError
from mobileclip2.models.checkpoint import check_finite, load_weights, read_state
from mobileclip2.models.efficientnet_lite import efficientnet_lite_state
from mobileclip2.names import did_you_mean


def build_trunk(spec: Locked, weights: Path) -> nn.Module:
    """Build a frozen timm model without its classifier and load its weights.

    Published checkpoints of other layouts, such as DINOv2's own, are converted by timm. Positional embeddings are resized
    to ``spec.size``.

    Raises:
        WeightsError: timm does not have the model, it does not take this size, or the weights do not fit.
    """
    trunk: Any = trunk_architecture(spec)
    load_weights(trunk, _timm_state(read_state(weights), trunk, trunk_config(spec), weights), str(weights))
    check_finite(trunk.state_dict(), str(weights))
    return cast(nn.Module, trunk.requires_grad_(False).eval())


def trunk_architecture(spec: Locked) -> nn.Module:
    """Build a timm model without its classifier and without weights.

    Raises:
        WeightsError: timm does not have the model, or it does not take this size.
    """
    config = trunk_config(spec)
    name, _, _ = spec.trunk.partition(".")
    size: dict[str, Any] = {"img_size": spec.size} if config.fixed_input_size else {}
    try:
        trunk: Any = timm.create_model(name, **size)
        trunk.reset_classifier(0)
    except Exception as error:  # timm raises exceptions of many types
        raise WeightsError(
            f"teacher: timm cannot build '{spec.trunk}' for {spec.size} pixels ({type(error).__name__}: {error}); "
            "correct 'locked.trunk' or 'locked.size'"
        ) from error
    _check_size(trunk, spec)
    return cast(nn.Module, trunk)


def trunk_config(spec: Locked) -> PretrainedCfg:
    """Return timm's entry for the trunk: conventions of preprocessing, and the repository of the weights on the hub.

    Raises:
        WeightsError: timm does not have the model or the tag, or the profile must name one of several tags.
    """
    name, _, tag = spec.trunk.partition(".")
    tag = tag or spec.trunk_weights.tag or ""
    if not timm.is_model(name):
        raise WeightsError(
            f"teacher: timm has no model '{spec.trunk}'{did_you_mean(name, timm.list_models())}; "
            "set 'locked.trunk' to a name from timm.list_models()"
        )
    tags = [each.partition(".")[2] for each in timm.list_models(f"{name}.*", pretrained=True)]
    if tag and tag not in tags:
        field = "locked.trunk" if "." in spec.trunk else "locked.trunk_weights.tag"
        raise WeightsError(
            f"teacher: timm has no weights '{tag}' for {name}; set '{field}' to one of: {', '.join(tags) or 'none'}"
        )
    configs = {each: _config(f"{name}.{each}") for each in tags}
    if not tag and len({_conventions(each) for each in configs.values()}) > 1:
        raise WeightsError(
            f"teacher: weights of {name} have different means, deviations or interpolations, and a file does not say "
            f"which; set 'locked.trunk' to the name of the weights from which yours were trained: "
            f"{', '.join(f'{name}.{each}' for each in tags)}"
        )
    return configs[tag] if tag else _config(name)


def _config(name: str) -> PretrainedCfg:
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def _conventions(config: PretrainedCfg) -> tuple[object, ...]:
    return tuple(config.mean), tuple(config.std), config.interpolation, config.crop_mode == "squash"


def trunk_preprocess(spec: Locked) -> Preprocess:
    """Return the preprocessing that timm publishes for the weights, at ``spec.size``."""
    config = trunk_config(spec)
    return Preprocess(
        spec.size,
        cast(Color, tuple(config.mean)),
        cast(Color, tuple(config.std)),
        config.interpolation,
        "squash" if config.crop_mode == "squash" else "shortest",
    )


def trunk_width(trunk: nn.Module, size: int) -> int:
    """Return the number of features of an image. It differs from timm's ``num_features`` if layers follow the pooling.

    Raises:
        WeightsError: the trunk does not pool its features.
    """
    with torch.inference_mode():
        features = trunk(torch.zeros(1, 3, size, size))
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        raise WeightsError("teacher: the trunk returns no pooled features; set 'locked.trunk' to a classifier of timm")
    return int(features.shape[1])


def _check_size(trunk: nn.Module, spec: Locked) -> None:
    """Raise ``WeightsError`` if patches would leave out the border of the image."""
    patch = getattr(getattr(trunk, "patch_embed", None), "patch_size", None)
    side = patch[0] if isinstance(patch, tuple) else patch
    if side and spec.size % side:
        below = spec.size // side * side
        raise WeightsError(
            f"teacher: 'locked.size' is {spec.size}, and {spec.trunk} takes multiples of its patch size {side}; "
            f"set {below or side} or {below + side}"
        )


def _timm_state(
    state: dict[str, torch.Tensor], trunk: Any, config: PretrainedCfg, origin: Path
) -> dict[str, torch.Tensor]:
    """Convert a checkpoint to the names and shapes of ``trunk``, without a classifier."""
    lite = (config.architecture or "").startswith("tf_efficientnet_lite")
    if lite and not set(trunk.state_dict()) & set(state):  # the original weights have other names
        return efficientnet_lite_state(state, trunk)
    # every model file of timm has its conversion under this name
    convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    if convert:
        try:
            state = convert(state, trunk)
        except Exception as error:  # a checkpoint of another architecture fails in many ways
            raise WeightsError(
                f"{origin}: timm cannot convert these weights ({type(error).__name__}: {error}); they must be a state "
                f"dict of the trunk"
            ) from error
    classifiers = (config.classifier,) if isinstance(config.classifier, str) else tuple(config.classifier or ())
    heads = tuple(f"{name}." for name in classifiers)
    known = trunk.state_dict()
    return {name: tensor for name, tensor in state.items() if name in known or not name.startswith(heads)}
