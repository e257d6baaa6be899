"""Scale a profile down: same graph, a thousandth of the steps, small random models of the same kinds."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import torch
import yaml

from mobileclip2.config import published
from mobileclip2.config.profile import Profile
from mobileclip2.config.read_yaml import parse_yaml
from mobileclip2.errors import UserError
from mobileclip2.fingerprint import fingerprint
from mobileclip2.models.build import from_config
from mobileclip2.models.tensors import write_tensors
from pipelines.rehearsal.data import write_set, write_shards

SCALE = 1000
"""factor by which trainings are shorter and batches are smaller"""
MIN_STEPS, MIN_BATCH = 4, 8
MAX_TOKENS = 8
"""length of the captions"""
GROUPS_SCALE = 8
"""factor by which there are fewer groups, because each group of an asset is a run of Dagster's"""
SHARDS_PER_GROUP, SAMPLES_PER_SHARD = 1, 24
WIDTH, IMAGE_SIZE = 64, 48
STATE = "rehearsal.json"


def rehearse(profile: Profile, folder: Path) -> Path:
    """Write a rehearsal of a profile into ``folder`` and return its profile. An earlier rehearsal there is continued.

    Raises:
        UserError: the folder belongs to something else, or to a rehearsal of another text of the profile.
    """
    state = json.dumps({"profile": profile.name, "text": fingerprint(profile.public_text)}).encode()
    path = folder / "profile.yaml"
    if folder.exists() and any(folder.iterdir()):
        if not (folder / STATE).is_file():
            raise UserError(f"{folder}: the folder is not empty; give another one for the rehearsal")
        if (folder / STATE).read_bytes() != state:
            raise UserError(f"{folder}: holds a rehearsal of another profile; give another folder for this one")
        if path.is_file():
            return path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).write_bytes(state)
    values = scaled(parse_yaml(profile.text, profile.file), folder)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def scaled(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of the scaled profile, and write the data and weights that they name into ``folder``."""
    values = copy.deepcopy(values)
    values["name"] = f"{values['name']}_rehearsal"
    values["store"] = "store"
    values["groups"] = groups = max(2, values.get("groups", 16) // GROUPS_SCALE)
    for field in ("ledger", "rates", "gate", "compute", "device"):
        values.pop(field, None)
    values["batch"] = min(values.get("batch", 64), 32)
    # outputs of random models say nothing of the real ones
    values["checks"] = {
        "repeated_captions": 1,
        "degenerate_captions": 1,
        "scored_pairs": 0,
        "repeated_embeddings": 1,
    }
    for source in values["sources"]:
        _write_source(source, folder, "shards", groups * SHARDS_PER_GROUP)
    for corpus in values.get("caption_corpora", ()):
        _write_source(corpus, folder, "corpora", 1)
    for each in values.get("evaluation", ()):
        each["url"] = f"evaluation/{each['name']}"
        if not (folder / each["url"]).exists():
            write_set(folder / each["url"], each["name"])
    for captioner in values.get("captioners", ()):
        # a random captioner ends no caption early, and its nucleus is half of the vocabulary
        captioner["generation"] = {**captioner.get("generation", {}), "min_tokens": 3, "max_tokens": MAX_TOKENS}
    for section in ("captioners", "teachers", "students"):
        for entry in values.get(section, ()):
            _scale_model(entry, section, folder)
            if entry.get("train"):
                entry["train"] = scaled_training(entry["train"])
    return values


def scaled_training(train: dict[str, Any]) -> dict[str, Any]:
    """Return training settings with a thousandth of the steps and of the batch, on one process of this machine."""
    batch = train["batch"]
    steps = train["steps"] if "steps" in train else train["samples"] // batch
    steps = max(MIN_STEPS, steps // SCALE)
    changed = {name: value for name, value in train.items() if name not in {"samples", "accumulate", "workers"}}
    changed |= {"steps": steps, "batch": max(MIN_BATCH, batch // SCALE)}
    changed |= {"warmup": min(steps // 2, train.get("warmup", 0) // SCALE), "checkpoint_every": max(1, steps // 4)}
    if "evaluate_every" in train:
        changed["evaluate_every"] = max(1, train["evaluate_every"] // SCALE)
    return changed


def small_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return an open_clip configuration of the same kind as ``config`` with less than ten million parameters.

    Trunks of timm become ``fastvit_nano``. A text tower of transformers becomes open_clip's.
    """
    small = copy.deepcopy(config)
    vision, text = small["vision_cfg"], small["text_cfg"]
    small["embed_dim"] = WIDTH
    if "timm_model_name" in vision:
        trunk = {"timm_model_name": "fastvit_nano", "timm_pool": "avg", "timm_proj": "linear", "image_size": IMAGE_SIZE}
        small["vision_cfg"] = trunk
    else:
        vision.pop("mlp_ratio", None)
        vision.update(layers=2, width=WIDTH, head_width=32, patch_size=16, image_size=IMAGE_SIZE)
        if vision.get("attentional_pool"):
            vision["attn_pooler_heads"] = 2
    kept = {name: text[name] for name in ("embed_cls", "output_tokens", "no_causal_mask") if name in text}
    context = min(text.get("context_length", 77), 77)
    small["text_cfg"] = {
        **kept,
        "context_length": context,
        "vocab_size": 49408,
        "width": WIDTH,
        "heads": 2,
        "layers": 2,
    }
    if decoder := small.get("multimodal_cfg"):
        decoder.update(width=WIDTH, heads=2, layers=1, attn_pooler_heads=2)
    return small


def architecture_of(name: str) -> dict[str, Any]:
    """Return the configuration of an open_clip name, or of the architecture that a name of the hub contains."""
    if name in published.open_clip_names():
        return published.architecture(name)
    repository = name.removeprefix("hf-hub:").lower()
    if "coca" in repository:
        return published.architecture("coca_ViT-L-14")
    contained = [
        each for each in published.open_clip_names() if re.search(rf"\b{re.escape(each.lower())}\b", repository)
    ]
    return published.architecture(max(contained, key=len) if contained else "ViT-B-32")


def _write_source(source: dict[str, Any], folder: Path, kind: str, shards: int) -> None:
    source["url"] = f"{kind}/{source.get('name', 'source')}"
    source.pop("pattern", None)
    if not (folder / source["url"]).exists():
        write_shards(folder / source["url"], shards, SAMPLES_PER_SHARD)


def _scale_model(entry: dict[str, Any], section: str, folder: Path) -> None:
    """Replace the model of a captioner, teacher or student by a small one, with random weights if it had weights."""
    model: dict[str, Any] | None = entry.get("model")
    had_weights = model is not None and ("weights" in model or str(model.get("open_clip", "")).startswith("hf-hub:"))
    if entry.pop("locked", None) is not None:
        model, had_weights = {"open_clip": "ViT-B-32"}, True
    if entry.pop("small", None) is not None:
        model, had_weights = {"open_clip": "coca_ViT-B-32"}, True
        entry.pop("trunk_weights", None)
    if model is None:
        return
    config = small_config(model["config"] if "config" in model else architecture_of(model["open_clip"]))
    entry["model"] = {"config": json.loads(json.dumps(config))}
    if had_weights:
        path = Path("weights") / section / f"{entry['name']}.safetensors"
        entry["model"]["weights"] = {"path": str(path)}
        _write_weights(folder / path, config, f"{section}/{entry['name']}")


def _write_weights(path: Path, config: dict[str, Any], name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(fingerprint(name)[:8], 16))
        write_tensors(path, from_config({"model_cfg": config}).model.state_dict())
