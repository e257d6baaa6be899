"""A cache of image and text features on this machine.

A set with new templates, or with images of an earlier set, needs no second pass of the image tower. The folder can be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mobileclip2.store.storage import atomic_path

CONTENTS = "contents"
DAMAGED = (SafetensorError, OSError, ValueError, KeyError, TypeError)


class FeatureCache:
    """Features ``[dim]`` by the key of their content, in memory and in the files of ``folder``.

    A file is read when one of its keys is requested. The keys of a damaged file count as missing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._features: dict[str, Tensor] = {}
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")) if folder else []:
            try:
                with safe_open(path, "pt") as file:
                    self._files.update(dict.fromkeys(json.loads(file.metadata()[CONTENTS]), path))
            except DAMAGED:
                continue

    def __contains__(self, key: str) -> bool:
        if key not in self._features and key in self._files:
            self._read(self._files[key])
        return key in self._features

    def get(self, keys: Sequence[str]) -> Tensor:
        """Return ``[len(keys), dim]``. All keys must be in the cache."""
        return torch.stack([self._features[key] for key in keys])

    def add(self, keys: Iterable[str], features: Tensor) -> None:
        """Add features ``[n, dim]``."""
        self._features.update(zip(keys, features, strict=True))

    def save(self) -> None:
        """Write the features that are not in ``folder`` yet to a new file."""
        new = [key for key in self._features if key not in self._files]
        if self._folder and new:
            name = hashlib.sha256("".join(new).encode()).hexdigest()
            with atomic_path(self._folder / f"{name}.safetensors") as temporary:
                save_file({"features": self.get(new)}, temporary, {CONTENTS: json.dumps(new)})

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                self.add(json.loads(file.metadata()[CONTENTS]), file.get_tensor("features"))
        except DAMAGED:
            self._files = {key: file for key, file in self._files.items() if file != path}
