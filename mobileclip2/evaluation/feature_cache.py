"""Features that earlier evaluations of a model have computed, kept on this machine.

A set that gets other templates, or shares images with one that was measured before, then costs no pass of the image tower. The
folder may be deleted at any time.
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


class Known:
    """Features ``[dim]`` by what they are of: those computed now, and those that the files of ``folder`` hold.

    An evaluation of one set asks for few of what a folder has, or for none: only the files in which something is asked for
    are read, each as a whole. What a damaged file held is computed again.
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

    def __contains__(self, content: str) -> bool:
        if content not in self._features and content in self._files:
            self._read(self._files[content])
        return content in self._features

    def of(self, contents: Sequence[str]) -> Tensor:
        """``[len(contents), dim]``; all of them must be known."""
        return torch.stack([self._features[content] for content in contents])

    def add(self, contents: Iterable[str], features: Tensor) -> None:
        """Add features ``[n, dim]`` by the hashes of their contents."""
        self._features.update(zip(contents, features, strict=True))

    def keep(self) -> None:
        """Write what the folder does not have yet into one more file."""
        new = [content for content in self._features if content not in self._files]
        if self._folder and new:
            name = hashlib.sha256("".join(new).encode()).hexdigest()
            with atomic_path(self._folder / f"{name}.safetensors") as temporary:
                save_file({"features": self.of(new)}, temporary, {CONTENTS: json.dumps(new)})

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                self.add(json.loads(file.metadata()[CONTENTS]), file.get_tensor("features"))
        except DAMAGED:
            self._files = {content: each for content, each in self._files.items() if each != path}
