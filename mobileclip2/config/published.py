"""Tables of open_clip: architectures, pretrained tags and their conventions.

They are read from the files of the installed package. Importing ``open_clip`` imports torch, which takes seconds.
"""

from __future__ import annotations
import __future__

import ast
import copy
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

CONVENTIONS = ("mean", "std", "interpolation", "resize_mode")
"""fields of a pretrained tag that describe the preprocessing of its images"""


def _package() -> Path:
    spec = importlib.util.find_spec("open_clip")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


@cache
def open_clip_names() -> frozenset[str]:
    """Return the architecture names of open_clip."""
    return frozenset(file.stem for file in (_package() / "model_configs").glob("*.json"))


def architecture(name: str) -> dict[str, Any]:
    """Return the ``model_cfg`` of an architecture."""
    config: dict[str, Any] = json.loads((_package() / "model_configs" / f"{name}.json").read_text())
    return config


def pretrained(name: str) -> dict[str, dict[str, Any]]:
    """Return the pretrained tags of an architecture, each with its ``hf_hub``, ``url``, ``quick_gelu`` and conventions."""
    return _table().get(name, {})


@cache
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    """Execute the definitions of ``pretrained.py`` without its imports, which include torch."""
    package = _package()
    names: dict[str, Any] = {"copy": copy}
    exec((package / "constants.py").read_text(), names)
    module = ast.parse((package / "pretrained.py").read_text())
    module.body = [node for node in module.body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Try)]
    # the flag leaves annotations unevaluated, because they name what the imports define
    exec(compile(module, "pretrained.py", "exec", __future__.annotations.compiler_flag, dont_inherit=True), names)
    table: dict[str, dict[str, dict[str, Any]]] = names["_PRETRAINED"]
    return table


def clean_tag(tag: str) -> str:
    """Return a tag as the tables spell it. open_clip accepts other letter cases and hyphens."""
    return tag.lower().replace("-", "_")


def activation(config: dict[str, Any]) -> str:
    """Return the activation of an open_clip configuration or a pretrained tag: ``gelu`` or ``quick_gelu``."""
    return "quick_gelu" if config.get("quick_gelu") else "gelu"
