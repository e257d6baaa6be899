"""Features that earlier evaluations of a model have computed, kept on this machine.

A set that gets other templates, or shares images with one that was measured before, then costs no pass of the image tower. The
folder may be deleted at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, stack

from mobileclip2.store.storage import atomic_path

CONTENTS = "contents"


def read_features(folder: Path) -> dict[str, Tensor]:
    """All features of a folder by what they are of. A damaged file is passed over: what it held is computed again."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                contents = json.loads(file.metadata()[CONTENTS])
                found.update(zip(contents, file.get_tensor("features"), strict=True))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            continue
    return found


def write_features(path: Path, features: Mapping[str, Tensor]) -> None:
    """One file with features ``[dim]`` by what they are of; nothing where there are none."""
    if features:
        with atomic_path(path) as temporary:
            metadata = {CONTENTS: json.dumps(list(features))}
            save_file({"features": stack(list(features.values()))}, temporary, metadata)
