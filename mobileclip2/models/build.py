"""Build, save and load models with open_clip.

A stored model is a folder with ``open_clip_config.json``, ``open_clip_model.safetensors`` and, unless the tokenizer is
CLIP's, the files of the tokenizer. Plain ``open_clip`` reads it with the prefix ``local-dir:``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import open_clip
import torch
from open_clip.model import get_model_preprocess_cfg
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError
from torch import nn
from torchvision.transforms import InterpolationMode

from mobileclip2.config.model import Model
from mobileclip2.config.published import CONVENTIONS, pretrained
from mobileclip2.data.preprocess import Color, Preprocess
from mobileclip2.errors import UserError, WeightsError
from mobileclip2.models import fastvit  # noqa: F401  registers the small FastViT with timm
from mobileclip2.models.checkpoint import check_finite, convert, load_weights, read_state
from mobileclip2.models.hub import CONFIG as CONFIG
from mobileclip2.models.hub import TEXT_CONFIG, Files, download
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.tensors import write_tensors
from mobileclip2.models.words import clip_tokenizer
from mobileclip2.progress import doing
from mobileclip2.store.storage import file_sha256, temporary_files

WEIGHTS = "open_clip_model.safetensors"
RESIZE_MODES = ("shortest", "squash")

TEXT_TOWER = "text_tower"
"""key of a stored configuration with the ``config.json`` of a text tower of transformers; open_clip ignores it"""

Number = Annotated[float, Strict()]
Positive = Annotated[float, Strict(), Field(gt=0)]


class _ModelConfig(BaseModel):
    """What is read here of a ``model_cfg``. open_clip checks the towers."""

    embed_dim: int


class _Config(BaseModel):
    """What is read here of an ``open_clip_config.json``."""

    model_cfg: _ModelConfig
    preprocess_cfg: dict[str, Any] = {}
    text_tower: dict[str, Any] = {}


def _side(size: Any) -> Any:
    return size[0] if isinstance(size, list | tuple) and size else size


class _PreprocessConfig(BaseModel):
    """What is read here of a ``preprocess_cfg``, after open_clip's defaults are added."""

    model_config = ConfigDict(allow_inf_nan=False)

    size: Annotated[int, Strict(), Field(ge=1, le=8192), BeforeValidator(_side)] = 224
    mean: tuple[Number, Number, Number]
    std: tuple[Positive, Positive, Positive]
    interpolation: InterpolationMode = InterpolationMode.BICUBIC


def build(
    model: Model, weights_file: Path | None = None, *, commits: Mapping[str, str] | None = None, seed: int = 0
) -> ImageText:
    """Build a model with its weights, or initialize it from ``seed``.

    ``weights_file`` contains the weights that ``model`` names by path or package. Files of the hub are downloaded at
    ``commits``, the commit of each repository. Other repositories are read at their newest commit.

    Raises:
        WeightsError: files cannot be downloaded, or the weights do not fit the architecture.
    """
    with doing(f"loading {model.open_clip or 'a model'}"):
        files = download(model, weights_file, commits)
        torch.manual_seed(seed)
        image_text = from_config(_config(model, files), files.tokenizer)
        if files.weights:
            origin = str(files.weights)
            load_weights(image_text.model, convert(image_text.model, read_state(files.weights), origin), origin)
            check_finite(image_text.model.state_dict(), origin)
        if files.origins:
            image_text.provenance = {"hub_files": {name: file_sha256(path) for name, path in files.origins.items()}}
        return image_text


def build_without_weights(model: Model, commits: Mapping[str, str] | None = None) -> ImageText:
    """Build a model at full size on the meta device, which takes no memory. Download no weights.

    Raises:
        WeightsError: the configuration or the tokenizer cannot be downloaded.
        UserError: open_clip cannot build the model.
    """
    files = download(model, commits=commits, architecture_only=True)
    return from_config(_config(model, files), files.tokenizer, device="meta")


def _config(model: Model, files: Files) -> dict[str, Any]:
    """Return the content of the ``open_clip_config.json`` of a model."""
    config = files.config or {"model_cfg": model.architecture, "preprocess_cfg": _preprocess_config(model)}
    return {**config, **({TEXT_TOWER: files.text_config} if files.text_config else {})}


def _preprocess_config(model: Model) -> dict[str, Any]:
    """Return the preprocessing of the profile, of the tag, or else of the first published weights."""
    if model.preprocess:
        given = model.preprocess.model_dump(mode="json")
        return {name: value for name, value in given.items() if value != "shortest"}
    tags = pretrained(model.open_clip) if model.open_clip else {}
    published = model.published or next(iter(tags.values()), {})
    return {key: published[key] for key in CONVENTIONS if published.get(key) not in (None, "shortest")}


def from_config(
    config: dict[str, Any], tokenizer: Mapping[str, bytes] | None = None, *, device: Literal["cpu", "meta"] = "cpu"
) -> ImageText:
    """Build a model from the content of an ``open_clip_config.json``. Initialize it from torch's current seed.

    ``tokenizer`` contains the files of the tokenizer by name. It is empty for CLIP's tokenizer. No file is downloaded.
    On the device ``meta``, tensors have shapes and no values.

    Raises:
        WeightsError: the configuration is invalid.
        UserError: open_clip cannot build the model, or the image tower takes images of another size.
        StoreError: temporary files cannot be written.
    """
    _check(_Config, config)
    tokenizer = tokenizer or {}
    with temporary_files(), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_text(json.dumps(_with_local_text_tower(config, Path(folder))))
        for name, content in tokenizer.items():
            (Path(folder) / name).write_bytes(content)
        name = f"local-dir:{folder}"
        logging.disable(logging.WARNING)  # open_clip and timm warn about random initialization
        try:
            with torch.device(device) if device == "meta" else contextlib.nullcontext():
                model = open_clip.create_model(name, load_weights=False, pretrained_text=False, device=device)
            if isinstance(model, open_clip.CoCa):
                initialize_decoder(model)
            tokenize = _tokenizer(name, config["model_cfg"]["text_cfg"])
        except Exception as error:  # open_clip, timm and transformers raise exceptions of many types
            raise UserError(
                f"model: open_clip cannot build a model from this 'config' ({type(error).__name__}: {error}): "
                f"{config.get('model_cfg')}"
            ) from error
        finally:
            logging.disable(logging.NOTSET)
    image_text = _wrap(model, tokenize, config, dict(tokenizer))
    _check_image_size(model, image_text.preprocess.size)
    return image_text


def initialize_decoder(model: open_clip.CoCa) -> None:
    """Initialize the output projection of the decoder, which open_clip leaves uninitialized."""
    nn.init.normal_(model.text_decoder.text_projection, std=model.text_decoder.width**-0.5)


def _tokenizer(name: str, text_cfg: dict[str, Any]) -> Any:
    """Return open_clip's tokenizer of a model."""
    if text_cfg.get("hf_tokenizer_name"):
        return open_clip.get_tokenizer(name)
    settings = {"context_length": text_cfg["context_length"]} if "context_length" in text_cfg else {}
    return clip_tokenizer(json.dumps({**settings, **text_cfg.get("tokenizer_kwargs", {})}, sort_keys=True))


def _with_local_text_tower(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the configuration of a text tower of transformers, and return ``config`` with its path."""
    model_cfg = dict(config["model_cfg"])
    if TEXT_TOWER in config:
        path = folder / TEXT_TOWER / TEXT_CONFIG
        path.parent.mkdir()
        # the towers of open_clip are fp32, whatever the precision of the published weights is
        text_tower = {key: value for key, value in config[TEXT_TOWER].items() if key not in ("dtype", "torch_dtype")}
        path.write_text(json.dumps(text_tower))
        model_cfg["text_cfg"] = {**model_cfg["text_cfg"], "hf_model_name": str(path.parent)}
    return {"model_cfg": model_cfg, "preprocess_cfg": config.get("preprocess_cfg", {})}


def _check(kind: type[BaseModel], config: object) -> None:
    """Raise ``WeightsError`` if a part of a configuration is invalid."""
    try:
        kind.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the configuration"
        raise WeightsError(f"model: '{field}' is invalid: {first['msg']}; correct {CONFIG}") from None


def _check_image_size(model: nn.Module, size: int) -> None:
    """Raise ``UserError`` if a timm tower has a fixed image size and ``size`` differs from it."""
    patches = getattr(getattr(getattr(model, "visual", None), "trunk", None), "patch_embed", None)
    built_in = getattr(patches, "img_size", None)
    if built_in and getattr(patches, "strict_img_size", False) and tuple(built_in) != (size, size):
        raise UserError(
            f"model: 'image_size' is {size}, but the image tower only takes {built_in[0]} x {built_in[1]} pixels; "
            "set that size, or choose another 'timm_model_name'"
        )


def _wrap(model: nn.Module, tokenize: Any, config: dict[str, Any], tokenizer: dict[str, bytes]) -> ImageText:
    cfg = {**get_model_preprocess_cfg(model), **config.get("preprocess_cfg", {})}
    _check(_PreprocessConfig, cfg)
    size, resize = cfg.get("size", 224), cfg.get("resize_mode") or "shortest"
    if resize not in RESIZE_MODES:
        raise WeightsError(f"model: 'resize_mode' is '{resize}'; only {' and '.join(RESIZE_MODES)} are supported")
    preprocess = Preprocess(
        size=_side(size),
        mean=cast(Color, tuple(cfg["mean"])),
        std=cast(Color, tuple(cfg["std"])),
        interpolation=cfg.get("interpolation", "bicubic"),
        resize=resize,
    )
    stored = {
        "model_cfg": config["model_cfg"],
        "preprocess_cfg": {
            **preprocess.conventions(),
            **({"resize_mode": resize} if resize != "shortest" else {}),
            **config.get("preprocess_cfg", {}),
        },
        **({TEXT_TOWER: config[TEXT_TOWER]} if TEXT_TOWER in config else {}),
    }
    return ImageText(model.eval(), tokenize, preprocess, int(config["model_cfg"]["embed_dim"]), stored, tokenizer)


def save(image_text: ImageText, folder: Path) -> None:
    """Write the files of a stored model into ``folder``."""
    save_architecture(image_text, folder)
    write_tensors(folder / WEIGHTS, image_text.model.state_dict())


def save_architecture(image_text: ImageText, folder: Path) -> None:
    """Write the configuration and the tokenizer of a model into ``folder``, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(image_text.config, indent=1, sort_keys=True) + "\n")
    for name, content in image_text.tokenizer_files.items():
        (folder / name).write_bytes(content)


def stored_files(image_text: ImageText) -> list[str]:
    """Return the names of the files that :func:`save` writes."""
    return [CONFIG, WEIGHTS, *sorted(image_text.tokenizer_files)]


def load(config_file: Path, weights_file: Path, tokenizer_files: Sequence[Path] = ()) -> ImageText:
    """Load a stored model from its files. Ask neither the network nor a cache.

    Raises:
        UserError: a file is invalid. The message names it.
    """
    with doing("loading a model"):
        tokenizer = {path.name: path.read_bytes() for path in tokenizer_files}
        try:
            config = json.loads(config_file.read_bytes())
        except (ValueError, RecursionError):
            raise WeightsError(f"{config_file}: not JSON; export or copy the model again") from None
        try:
            image_text = from_config(config, tokenizer)
        except UserError as error:
            raise type(error)(f"{config_file}: {error}") from error
        load_weights(image_text.model, read_state(weights_file), str(weights_file))
    return image_text
