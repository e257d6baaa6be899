"""Build, save and load models with open_clip.

A stored model is a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``. Plain ``open_clip``
reads it with the prefix ``local-dir:``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.model import get_model_preprocess_cfg
from open_clip.pretrained import get_pretrained_cfg
from open_clip.tokenizer import SimpleTokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mobileclip2.config.model import Model
from mobileclip2.config.published import architecture
from mobileclip2.data.preprocess import Color, Preprocess
from mobileclip2.errors import UserError, WeightsError
from mobileclip2.models import fastvit  # noqa: F401  registers the small FastViT with timm
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.tensors import mismatch, write_tensors
from mobileclip2.models.words import cache_tokens
from mobileclip2.progress import doing
from mobileclip2.store.storage import temporary_files

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
RESIZE_MODES = ("shortest", "squash")


def build(model: Model, weights_file: Path | None = None, *, seed: int = 0) -> ImageText:
    """Build a model with its weights, or initialize it from ``seed``.

    ``weights_file`` contains the weights that ``model`` names by path or package. open_clip downloads the weights of a
    tag or a hub.

    Raises:
        WeightsError: the weights cannot be downloaded or do not fit the architecture.
    """
    with doing(f"loading {model.open_clip or 'a model'}"):
        return _build(model, weights_file, seed)


def _build(model: Model, weights_file: Path | None, seed: int) -> ImageText:
    torch.manual_seed(seed)
    if model.open_clip and model.open_clip.startswith("hf-hub:"):
        return _load_hub(model.open_clip)
    if model.open_clip and model.tag:
        return _load_tag(model)
    preprocess_config = _preprocess_config(model.open_clip) if model.open_clip else {}
    config = {"model_cfg": _model_config(model), "preprocess_cfg": preprocess_config}
    image_text = from_config(config)
    if weights_file:
        load_weights(image_text.model, read_state(weights_file), str(weights_file))
    return image_text


def _model_config(model: Model) -> dict[str, Any]:
    """Return the configuration of an architecture with the activation of its weights."""
    config = architecture(model.open_clip) if model.open_clip else dict(model.config or {})
    if model.activation:
        config["quick_gelu"] = model.activation == "quick_gelu"
    return config


def _preprocess_config(name: str) -> dict[str, Any]:
    """Return the preprocessing of the first published weights of an architecture. Copies of the weights use the same."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    published = get_pretrained_cfg(name, tags[0]) if tags else {}
    config = {key: published[key] for key in ("mean", "std", "interpolation") if published.get(key)}
    if published.get("resize_mode", "shortest") != "shortest":
        config["resize_mode"] = published["resize_mode"]
    return config


def from_config(config: dict[str, Any]) -> ImageText:
    """Build a model from the content of an ``open_clip_config.json``. Initialize it from torch's current seed.

    Raises:
        UserError: open_clip cannot build the model, or the image tower takes images of another size.
        StoreError: temporary files cannot be written.
    """
    with temporary_files(), tempfile.TemporaryDirectory() as folder, _without_warnings():
        (Path(folder) / CONFIG).write_text(json.dumps(config))
        name = f"local-dir:{folder}"
        try:
            model, tokenize = open_clip.create_model(name, load_weights=False), open_clip.get_tokenizer(name)
        except Exception as error:  # open_clip and timm raise exceptions of many types
            raise UserError(
                f"model: open_clip cannot build a model from this 'config' ({type(error).__name__}: {error}): "
                f"{config.get('model_cfg')}"
            ) from error
    image_text = _wrap(model, tokenize, config)
    _check_image_size(model, image_text.preprocess.size)
    return image_text


def _check_image_size(model: nn.Module, size: int) -> None:
    """Raise ``UserError`` if a timm tower has a fixed image size and ``size`` differs from it."""
    patches = getattr(getattr(getattr(model, "visual", None), "trunk", None), "patch_embed", None)
    built_in = getattr(patches, "img_size", None)
    if built_in and getattr(patches, "strict_img_size", False) and tuple(built_in) != (size, size):
        raise UserError(
            f"model: 'image_size' is {size}, but the image tower only takes {built_in[0]} x {built_in[1]} pixels; "
            "set that size, or choose another 'timm_model_name'"
        )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress the warnings of open_clip and timm about random initialization."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _load_hub(name: str) -> ImageText:
    try:
        model = open_clip.create_model(name, require_pretrained=True)
        config = open_clip.factory._get_hf_config(name.removeprefix("hf-hub:"))
        tokenize = open_clip.get_tokenizer(name)
    except Exception as error:
        raise WeightsError(
            f"{name}: cannot be loaded from the hub ({type(error).__name__}); check the name and the network, "
            "or download it once and set 'open_clip' and 'weights: {path: ...}'"
        ) from error
    return _wrap(model, tokenize, config)


def _load_tag(model: Model) -> ImageText:
    name, tag, config = model.open_clip or "", model.tag, _model_config(model)
    try:
        built = open_clip.create_model(name, pretrained=tag, quick_gelu=config.get("quick_gelu", False))
    except Exception as error:
        raise WeightsError(
            f"{name}: the weights '{tag}' cannot be downloaded ({type(error).__name__}: {error}); "
            "check the network and HF_HUB_OFFLINE, or set 'weights: {path: ...}'"
        ) from error
    return _wrap(built, open_clip.get_tokenizer(name), {"model_cfg": config})


def _wrap(model: nn.Module, tokenize: Any, config: dict[str, Any]) -> ImageText:
    cfg = {**get_model_preprocess_cfg(model), **config.get("preprocess_cfg", {})}
    size, resize = cfg.get("size", 224), cfg.get("resize_mode") or "shortest"
    if resize not in RESIZE_MODES:
        raise WeightsError(f"model: 'resize_mode' is '{resize}'; only {' and '.join(RESIZE_MODES)} are supported")
    preprocess = Preprocess(
        size=size if isinstance(size, int) else size[0],
        mean=cast(Color, tuple(cfg["mean"])),
        std=cast(Color, tuple(cfg["std"])),
        interpolation=cfg.get("interpolation", "bicubic"),
        resize=resize,
    )
    if isinstance(tokenize, SimpleTokenizer):
        tokenize = cache_tokens(tokenize)
    stored = {
        "model_cfg": config["model_cfg"],
        "preprocess_cfg": {
            "size": preprocess.size,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": preprocess.interpolation,
            **({"resize_mode": resize} if resize != "shortest" else {}),
            **config.get("preprocess_cfg", {}),
        },
    }
    return ImageText(model.eval(), tokenize, preprocess, int(config["model_cfg"]["embed_dim"]), stored)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a weight file without unpickling other objects.

    Raises:
        WeightsError: the file is truncated, is not a weight file, or contains other objects than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    except (SafetensorError, OSError, RuntimeError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"weights: {path} cannot be read: {reason}; it must be a complete .safetensors file or a checkpoint that "
            "contains only tensors. Download it again or save it again"
        ) from error


def load_weights(model: nn.Module, state: dict[str, torch.Tensor], origin: str) -> None:
    """Load a complete state dict.

    Raises:
        WeightsError: tensors are missing, unknown or of another shape. The message names the first three.
    """
    if problems := mismatch(state, model.state_dict()):
        raise WeightsError(f"{origin}: does not fit the architecture: {problems}")
    model.load_state_dict(state)


def save(image_text: ImageText, folder: Path) -> None:
    """Write the two files of a stored model into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(image_text.config, indent=1, sort_keys=True) + "\n")
    write_tensors(folder / WEIGHTS, image_text.model.state_dict())


def load(config_file: Path, weights_file: Path) -> ImageText:
    """Load a stored model."""
    with doing("loading a model"):
        image_text = from_config(json.loads(config_file.read_text()))
        load_weights(image_text.model, read_state(weights_file), str(weights_file))
    return image_text
