"""Export for ``open_clip``: a folder for ``local-dir:``, or one file of fused weights per tower."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mobileclip2.export.model import ExportModel, of_open_clip
from mobileclip2.models.build import CONFIG, save, save_architecture
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.quiet import quiet
from mobileclip2.models.reparameterize import reparameterize

IMAGE, TEXT = "image.safetensors", "text.safetensors"
VISUAL = "visual."


def write_folder(image_text: ImageText, folder: Path) -> None:
    """Write the trained model without fusing it, because ``open_clip`` configurations cannot describe a fused model."""
    save(image_text, folder)
    _write_architecture(image_text, folder)


def read_folder(folder: Path) -> ExportModel:
    """Load the folder with plain ``open_clip`` and fuse the model."""
    name = f"local-dir:{folder}"
    with quiet():
        model, preprocess = open_clip.create_model_from_pretrained(name, **_local_text_tower(folder))
    return of_open_clip(reparameterize(model), preprocess, open_clip.get_tokenizer(name))


def write_towers(image_text: ImageText, fused: nn.Module, folder: Path) -> None:
    """Write the fused weights of the image tower (``visual.``) and of the text tower to one file each."""
    save_architecture(image_text, folder)
    state = {name: tensor.detach().contiguous().clone() for name, tensor in fused.state_dict().items()}
    save_file({name: state[name] for name in state if name.startswith(VISUAL)}, folder / IMAGE)
    save_file({name: state[name] for name in state if not name.startswith(VISUAL)}, folder / TEXT)
    _write_architecture(image_text, folder)


def read_towers(folder: Path) -> ExportModel:
    """Load the fused weights of both towers."""
    name = f"local-dir:{folder}"
    with torch.random.fork_rng(devices=[]), quiet():
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, load_weights=False, pretrained_text=False, **_local_text_tower(folder)
        )
    fused = reparameterize(model)
    fused.load_state_dict({**load_file(folder / IMAGE), **load_file(folder / TEXT)})
    return of_open_clip(fused, preprocess, open_clip.get_tokenizer(name))


def _local_text_tower(folder: Path) -> dict[str, Any]:
    """Return the arguments with which open_clip reads a text tower of transformers from the folder, not from the hub."""
    text = json.loads((folder / CONFIG).read_text())["model_cfg"]["text_cfg"]
    if "hf_model_name" not in text:
        return {}
    return {"text_cfg": {**text, "hf_model_name": str(folder), "hf_model_pretrained": False}}


def architecture(image_text: ImageText) -> Path | None:
    """Return the file of the module that registers the image tower, or None if timm contains the tower."""
    name = image_text.config["model_cfg"]["vision_cfg"].get("timm_model_name")
    if name and timm.is_model(name):
        entrypoint = timm.model_entrypoint(name)
        if entrypoint.__module__.startswith("mobileclip2."):
            return Path(inspect.getfile(entrypoint))
    return None


def _write_architecture(image_text: ImageText, folder: Path) -> None:
    module = architecture(image_text)
    if module:
        (folder / module.name).write_bytes(module.read_bytes())
