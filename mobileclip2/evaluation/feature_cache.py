"""A cache of image and text features on this machine.

A set with new templates, or with images of an earlier set, needs no second pass of the image tower. The folder can be
deleted at any time. A file that is damaged, or that belongs to another folder, is deleted and its features are recomputed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from mobileclip2.models.sealed_tensors import DamagedTensors, read_metadata, read_sealed, write_sealed

logger = logging.getLogger(__name__)

CONTENTS, FOLDER = "contents", "folder"
"""metadata of a file: the keys of its features, and the model and kind that it belongs to"""

_DAMAGES = (DamagedTensors, KeyError, ValueError, TypeError, RecursionError)


class FeatureCache:
    """Features ``[dim]`` by the key of their content, in memory and in the files of ``folder``.

    A file is read when one of its keys is requested. The keys of a damaged file count as missing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._owner = f"{folder.parent.name}/{folder.name}" if folder else ""  # the model and the kind of the features
        self._features: dict[str, Tensor] = {}
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")) if folder else []:
            # Only the header is read here. A damaged key is in no set, or its file fails in _read.
            try:
                self._files.update(dict.fromkeys(json.loads(read_metadata(path)[CONTENTS]), path))
            except _DAMAGES as error:
                self._drop(path, error)

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
            metadata = {CONTENTS: json.dumps(new), FOLDER: self._owner}
            write_sealed(self._folder / f"{name}.safetensors", {"features": self.get(new)}, metadata)

    def _read(self, path: Path) -> None:
        try:
            tensors, metadata = read_sealed(path)
            if metadata[FOLDER] != self._owner:
                raise ValueError(f"it belongs to {metadata[FOLDER]}")
            keys, features = json.loads(metadata[CONTENTS]), tensors["features"]
            if len(keys) != len(features):
                raise ValueError(f"it has {len(keys)} keys and {len(features)} features")
            self.add(keys, features)
        except _DAMAGES as error:
            self._drop(path, error)

    def _drop(self, path: Path, error: Exception) -> None:
        logger.warning("%s: not used, and its features are recomputed: %s", path, error)
        self._files = {key: file for key, file in self._files.items() if file != path}
        with suppress(OSError):
            path.unlink()
