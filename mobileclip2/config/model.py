"""The architecture and the pretrained weights of a model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from mobileclip2.config.location import Location
from mobileclip2.config.settings import Settings
from mobileclip2.fingerprint import UNDECLARED
from mobileclip2.names import did_you_mean


def open_clip_names() -> set[str]:
    """Return the architecture names of open_clip. They are read from its files, so that torch is not imported."""
    spec = importlib.util.find_spec("open_clip")
    assert spec and spec.submodule_search_locations
    return {file.stem for file in (Path(spec.submodule_search_locations[0]) / "model_configs").glob("*.json")}


class Weights(Settings):
    """Origin of pretrained weights, pinned by the hash of the file.

    Set exactly one of ``package`` (a file in an installed Python package), ``path`` (local or ``s3://``) and ``tag`` (a
    pretrained tag of open_clip).
    """

    package: str | None = None
    file: str | None = None
    path: Location | None = Field(None, json_schema_extra=UNDECLARED)
    tag: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.package, self.path, self.tag)) != 1:
            raise ValueError("name exactly one of 'package' (with 'file'), 'path' and 'tag'")
        if (self.package is None) != (self.file is None):
            raise ValueError("give 'package' and 'file' together; 'file' is a path inside the installed package")
        if self.package and not self.sha256:
            raise ValueError("weights from a package are a third party's upload: pin them with 'sha256'")
        return self


class Model(Settings):
    """An architecture: an open_clip name, an ``hf-hub:`` name, or an inline open_clip configuration."""

    open_clip: str | None = None
    config: dict[str, Any] | None = None
    weights: Weights | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.open_clip is None) == (self.config is None):
            raise ValueError("name exactly one of 'open_clip' and 'config'")
        if self.open_clip and not self.open_clip.startswith("hf-hub:") and self.open_clip not in open_clip_names():
            raise ValueError(
                f"open_clip has no model '{self.open_clip}'{did_you_mean(self.open_clip, open_clip_names())}; "
                "see open_clip.list_models(), or give an 'hf-hub:' name"
            )
        if self.weights and (self.open_clip or "").startswith("hf-hub:"):
            raise ValueError("an 'hf-hub:' model includes its weights; remove 'weights'")
        return self

    @property
    def pretrained(self) -> bool:
        """True if the model has pretrained weights."""
        return self.weights is not None or (self.open_clip or "").startswith("hf-hub:")
