"""Shards for measurements: photo-like JPEGs and captions with the sizes and lengths of web datasets."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from open_clip.factory import get_model_config
from safetensors.torch import save_file

from benchmarks._pictures import WORDS, photograph
from demo.tars import write_tar
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.models.build import from_config

DIFFERENT = 64
"""Number of photographs. Samples use them in turn, because a photograph costs more to make than to read."""


def write_shard(path: Path, samples: int, seed: int = 0) -> None:
    write_tar(path, _members(samples, seed))


def captions(count: int, seed: int = 0) -> list[str]:
    """Return captions that are all different. They have 5 to 25 words like alt texts, 14 on average."""
    draw = random.Random(seed)
    return [f"{number} " + " ".join(draw.choices(WORDS, k=draw.randint(4, 23))) for number in range(count)]


def _members(samples: int, seed: int) -> Iterator[tuple[str, bytes]]:
    for number, caption in enumerate(captions(samples, seed)):
        key = f"{number:09d}"
        yield f"{key}.jpg", photograph(number % DIFFERENT)
        yield f"{key}.txt", caption.encode()
        yield f"{key}.json", json.dumps({"uid": key}).encode()


def pipeline(folder: Path, teachers: dict[str, dict[str, Any] | str], *, samples: int, **values: Any) -> Pipeline:
    """Return a pipeline of one group with one shard. ``teachers`` are open_clip names or configurations.

    The teachers have random weights.
    """
    write_shard(folder / "shards" / "00000.tar", samples)
    listed = []
    for seed, (name, model) in enumerate(teachers.items()):
        config = get_model_config(model) if isinstance(model, str) else model
        torch.manual_seed(seed)
        state = from_config({"model_cfg": config}).model.state_dict()
        weights = folder / "weights" / f"{name}.safetensors"
        weights.parent.mkdir(exist_ok=True)
        save_file({key: value.contiguous().clone() for key, value in state.items()}, weights)
        given = {"config": config, "weights": {"path": str(weights)}}
        listed.append({"name": name, "logit_scale": 50, "model": given})
    profile = folder / "profile.yaml"
    base = {
        "name": "measured",
        "store": "store",
        "groups": 1,
        "sources": [{"name": "web", "url": "shards"}],
        "views": {"count": 2},
        "teachers": listed,
    }
    profile.write_text(yaml.safe_dump({**base, **values}))
    return Pipeline(load(profile))


@contextmanager
def uninitialized() -> Iterator[None]:
    """Skip the random initialization of models that are built in this context.

    Stored weights replace it anyway, and it takes seconds for a large model.
    """
    with ExitStack() as patches:
        for name in [name for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")]:
            patches.enter_context(patch.object(torch.nn.init, name, lambda tensor, *_, **__: tensor))
        yield
