"""A tiny fine-tuning: a student with batch norm is trained on the real captions and tuned on synthetic ones.

Interpolated weights are evaluated on the set of shapes and on a set of other drawings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from demo.tars import write_tar
from tests.tiny import CLASSES, draw, encode

PUPIL: dict[str, Any] = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {"timm_model_name": "fastvit_nano", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
WEIGHTS = [0, 0.3, 0.6, 1]


def add_tuning(profile: Path) -> None:
    """Rewrite the tiny profile with students ``before``, ``after`` and ``between`` and the evaluation set ``own``."""
    write_tar(
        profile.parent / "evaluation" / "own" / "test" / "0.tar",
        [
            member
            for number in range(4 * len(CLASSES))
            for member in (
                (f"s{number:07d}.webp", encode(draw(CLASSES[number % len(CLASSES)], f"own {number}"), "WEBP")),
                (f"s{number:07d}.cls", str(number % len(CLASSES)).encode()),
            )
        ],
    )
    for name in ("classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt"):
        text = (profile.parent / "evaluation" / "shapes" / name).read_text()
        (profile.parent / "evaluation" / "own" / name).write_text(text)
    # YAML anchors share objects
    values = json.loads(json.dumps(yaml.safe_load(profile.read_text())))
    train = {"steps": 12, "batch": 8, "learning_rate": 3.0e-3}
    render = values["students"][0]["render"]
    values["captioners"] = values["captioners"][:1]
    values["teachers"] = values["teachers"][1:]
    values["students"] = [
        {"name": "before", "model": {"config": PUPIL}, "data": "raw", "train": train, "render": render},
        {
            "name": "after",
            "base": "before",
            "loss": {"captions": "synthetic"},
            "train": {**train, "seed": 1},
            "render": render,
        },
        {
            "name": "between",
            "between": {"to": "after", "weights": WEIGHTS, "pick": {"best": "own", "within": 0.1, "of": ["shapes"]}},
        },
    ]
    values["evaluation"].append({"name": "own", "url": "evaluation/own"})
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
