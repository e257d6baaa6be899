"""Read checkpoints as people have them, and convert them to a model of open_clip.

Nothing is unpickled beyond tensors and plain values.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from safetensors.torch import load_file
from torch import nn

from mobileclip2.errors import WeightsError
from mobileclip2.models.tensors import mismatch

logger = logging.getLogger(__name__)

State = dict[str, torch.Tensor]

NESTED = ("state_dict", "model", "model_state_dict", "module")
"""keys under which training programs store the weights beside other values"""

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""prefixes that DistributedDataParallel, torch.compile and trainers add to every name"""

SIZES = ("input_resolution", "context_length", "vocab_size")
"""sizes that OpenAI's checkpoints contain as tensors"""


def read_state(path: Path) -> State:
    """Read the tensors of a weight file without unpickling other objects.

    The content decides the format, not the ending of the name. Weights inside a training checkpoint are found, and
    prefixes of wrapped models are removed.

    Raises:
        WeightsError: the file is truncated, is not a weight file, or contains other objects than tensors.
    """
    try:
        state = _read(path)
    except WeightsError:
        raise
    except Exception as error:  # torch raises errors of any class for damaged files
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"weights: {path} cannot be read: {reason}; it must be a complete .safetensors file or a checkpoint that "
            "contains only tensors. Download it again or save it again"
        ) from error
    return _unwrapped(_tensors(state, path))


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"weights: {path} is a pointer of Git LFS, not the file; run 'git lfs pull'")
    if start[8:9] == b"{":  # safetensors begin with the length of a JSON header
        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise WeightsError(
                    f"weights: {path} is a TorchScript archive, which contains code; load it once with torch.jit.load, "
                    "and save its state_dict() as .safetensors"
                )
    with path.open("rb") as file:  # of a path, torch.load reads the ending
        return torch.load(file, map_location="cpu", weights_only=True)


def _tensors(state: Any, path: Path) -> State:
    """Return the dictionary of tensors that a checkpoint contains."""
    while isinstance(state, Mapping):
        nested = next((state[key] for key in NESTED if isinstance(state.get(key), Mapping)), None)
        if nested is None:
            break
        state = nested
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"weights: {path} cannot be read: it has no tensors by name; save model.state_dict()")
    others = [
        str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if others:
        raise WeightsError(
            f"weights: {path} cannot be read: '{others[0]}' is not a tensor. Save model.state_dict(), alone or under "
            f"one of the keys {', '.join(NESTED)}"
        )
    return dict(state)


def _unwrapped(state: State) -> State:
    """Remove prefixes that all names have, and ``_orig_mod.`` of a compiled part of a model."""
    while prefix := next((each for each in WRAPPERS if all(name.startswith(each) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}


def load_weights(model: nn.Module, state: State, origin: str) -> None:
    """Load a complete state dict that fits exactly.

    Raises:
        WeightsError: tensors are missing, unknown or of another shape. The message names the first three.
    """
    if problems := mismatch(state, model.state_dict()):
        raise WeightsError(f"{origin}: does not fit the architecture: {problems}{_cause(state)}")
    model.load_state_dict(state)


def convert(model: Any, state: State, origin: str) -> State:
    """Convert names and shapes to those of ``model``: the steps of ``open_clip.load_checkpoint``, and transformers' CLIP.

    Raises:
        WeightsError: the positional embeddings cannot be resized.
    """
    state = {name: tensor for name, tensor in state.items() if name not in SIZES}
    if {"vision_model.embeddings.class_embedding", "visual_projection.weight"} <= state.keys():
        state = _from_transformers(state)
    expected = model.state_dict()
    try:
        state = convert_state_dict(model, state)
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        elif "text.positional_embedding" in state and hasattr(model, "positional_embedding"):
            state = {name.removeprefix("text."): tensor for name, tensor in state.items()}
        for name in ("logit_scale", "logit_bias"):
            if name in state and name in expected and state[name].numel() == expected[name].numel():
                state[name] = state[name].reshape(expected[name].shape)
        if "logit_bias" in expected:
            state.setdefault("logit_bias", torch.zeros_like(expected["logit_bias"]))
        if "text.transformer.embeddings.position_ids" not in expected:
            state.pop("text.transformer.embeddings.position_ids", None)
        shapes = {name: tensor.shape for name, tensor in state.items()}
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
    except (KeyError, RuntimeError, AssertionError, AttributeError, ValueError) as error:
        raise WeightsError(
            f"{origin}: does not fit the architecture: {type(error).__name__}: {error}{_cause(state)}"
        ) from error
    for name, shape in shapes.items():
        if state[name].shape != shape:
            logger.warning("%s: %s is resized from %s to %s", origin, name, list(shape), list(state[name].shape))
    return state


CAUSES = {
    r"reparam_conv": (
        ". These weights are reparameterized: the branches of training are fused for inference. "
        "Use the weights from before the fusion"
    ),
    r"^(vision_model|text_model)\.": (
        ". These weights are in the layout of transformers. Only CLIP is converted: for other models, use the "
        "weights in open_clip's layout, or an 'hf-hub:' name"
    ),
    r"^(image_encoder|text_encoder)\.": (
        ". These are MobileCLIP's original names: use the same model, or the weights in open_clip's layout"
    ),
    r"^base_model\.|^lora_|\.lora_": ". These weights are adapters (LoRA): merge them into their model first",
}
"""likely reason that weights do not fit, with the remedy, by a pattern of the names of their tensors"""


def _cause(names: Iterable[str]) -> str:
    return next((cause for pattern, cause in CAUSES.items() if any(re.search(pattern, name) for name in names)), "")


def check_finite(state: Mapping[str, torch.Tensor], origin: str) -> None:
    """Raise ``WeightsError`` if a tensor contains NaN or infinity."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{origin}: {name} contains values that are not finite (NaN or infinity); the training that saved it "
                "diverged, or the file is damaged. Use an earlier checkpoint"
            )


LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
"""parts of a transformer layer: transformers' name -> open_clip's"""

TOWERS = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "logit_scale": "logit_scale",
}
"""tensors outside the layers: transformers' name -> open_clip's"""


def _from_transformers(state: State) -> State:
    """Convert transformers' ``CLIPModel`` to open_clip's ``CLIP``."""
    converted = {ours: state[theirs] for theirs, ours in TOWERS.items() if theirs in state}
    converted["visual.proj"] = state["visual_projection.weight"].T.contiguous()
    if "text_projection.weight" in state:
        converted["text_projection"] = state["text_projection.weight"].T.contiguous()
    for tower, target in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
        prefix = f"{tower}.encoder.layers."
        layers = {name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)}
        for number in sorted(map(int, layers)):
            theirs, ours = f"{prefix}{number}.", f"{target}.resblocks.{number}."
            for kind in ("weight", "bias"):
                parts = [state[f"{theirs}self_attn.{part}_proj.{kind}"] for part in "qkv"]
                converted[f"{ours}attn.in_proj_{kind}"] = torch.cat(parts)
                for name, our_name in LAYER.items():
                    converted[f"{ours}{our_name}.{kind}"] = state[f"{theirs}{name}.{kind}"]
    return converted
