"""The architecture and the pretrained weights of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mobileclip2.config import published
from mobileclip2.config.location import Location
from mobileclip2.config.settings import Positive, Settings, Text, undeclared
from mobileclip2.fingerprint import DECLARED_IF_SET
from mobileclip2.names import did_you_mean, listed


class Weights(Settings):
    """Origin of pretrained weights, pinned by the hash of the file.

    Set exactly one of ``package`` (a file in an installed Python package), ``path`` (local or ``s3://``) and ``tag`` (a
    pretrained tag of open_clip).
    """

    package: Text | None = None
    file: Text | None = None
    path: Location | None = undeclared(None)
    tag: Text | None = None
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


class PreprocessSettings(Settings):
    """How images were prepared when the weights were trained. The size is the architecture's."""

    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]
    interpolation: Literal["bicubic", "bilinear"]
    resize_mode: Literal["shortest", "squash"] = "shortest"
    """``shortest`` resizes the shorter side and crops the center; ``squash`` resizes both sides"""


def text_files(architecture: dict[str, Any]) -> dict[str, str]:
    """Return the folders or names on the hub of the tokenizer and of the text tower that a ``model_cfg`` names."""
    text = architecture.get("text_cfg") or {}
    names = {"tokenizer": text.get("hf_tokenizer_name"), "text_config": text.get("hf_model_name")}
    return {role: name for role, name in names.items() if name}


class Model(Settings):
    """An architecture: an open_clip name, an ``hf-hub:`` name, or an inline open_clip configuration."""

    open_clip: Text | None = None
    config: dict[str, Any] | None = None
    weights: Weights | None = None
    activation: Literal["gelu", "quick_gelu"] | None = Field(None, json_schema_extra=DECLARED_IF_SET)
    """activation that the weights were trained with; by default, that of the architecture"""
    preprocess: PreprocessSettings | None = Field(None, json_schema_extra=DECLARED_IF_SET)
    """by default, that of the architecture's published weights, or open_clip's default for a ``config``"""
    revision: str | None = undeclared(None, pattern=r"^[0-9a-f]{40}$")
    """commit of the repository on the hub; the commit itself is an input of the stage"""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.open_clip is None) == (self.config is None):
            raise ValueError("name exactly one of 'open_clip' and 'config'")
        self._check_types(self.config or {})
        if self.open_clip and not self.from_hub and self.open_clip not in published.open_clip_names():
            raise ValueError(
                f"open_clip has no model '{self.open_clip}'{did_you_mean(self.open_clip, published.open_clip_names())}; "
                "see open_clip.list_models(), or give an 'hf-hub:' name"
            )
        if self.activation and self.config and "quick_gelu" in self.config:
            raise ValueError("'config' already has 'quick_gelu'; remove 'activation'")
        if self.from_hub:
            if unused := [name for name in ("weights", "activation", "preprocess") if getattr(self, name) is not None]:
                raise ValueError(f"an 'hf-hub:' model includes its {' and '.join(unused)}; remove it")
        elif self.revision and not self.published.get("hf_hub"):
            raise ValueError("'revision' is a commit of an 'hf-hub:' model or of a tag on the hub; remove it")
        elif self.tag:
            self._check_tag(self.tag)
        elif self.open_clip and self.weights:
            self._check_conventions(self.open_clip)
        return self

    def _check_types(self, config: dict[str, Any]) -> None:
        """Raise ``ValueError`` if a field of ``config`` that is read before open_clip reads it has another type."""
        if not isinstance(text := config.get("text_cfg") or {}, dict):
            raise ValueError("'config.text_cfg' must be a mapping; write the settings of the text tower")
        for name in ("hf_tokenizer_name", "hf_model_name"):
            if not isinstance(text.get(name) or "", str):
                raise ValueError(f"'config.text_cfg.{name}' must be a string; put it in quotes")

    def _check_tag(self, tag: str) -> None:
        """Raise ``ValueError`` if the architecture does not have the tag, or has another activation than its weights."""
        if not self.open_clip:
            raise ValueError("'weights.tag' goes with 'open_clip'; for a 'config', set 'weights.path'")
        if not (trained := self.published):
            tags = listed(published.pretrained(self.open_clip))
            raise ValueError(f"open_clip does not have weights '{tag}' for {self.open_clip}; it has {tags}")
        if self.preprocess:
            raise ValueError(f"the weights '{tag}' include their 'preprocess'; remove it")
        ours, theirs = self._activation(self.open_clip), published.activation(trained)
        if ours == theirs:
            return
        message = f"the weights '{tag}' were trained with '{theirs}', and {self.open_clip} has '{ours}'"
        fitting = f"{self.open_clip}-quickgelu"  # the architecture of the same weights that has their activation
        known = fitting in published.open_clip_names() and published.clean_tag(tag) in published.pretrained(fitting)
        if self.activation and not known:
            return  # open_clip's two tables disagree, and the profile decides
        if self.activation:
            raise ValueError(f"{message} with this 'activation'; remove 'activation', or set '{theirs}'")
        if known:
            raise ValueError(f"{message}; set 'open_clip: {fitting}'")
        raise ValueError(f"{message}, according to open_clip; set 'activation' to the one that is right")

    def _activation(self, name: str) -> str:
        return self.activation or published.activation(published.architecture(name))

    def _check_conventions(self, name: str) -> None:
        """Raise ``ValueError`` if published weights of the architecture differ in what the profile does not state."""
        activations: dict[str, list[str]] = {f"'{self._activation(name)}'": []}
        images: dict[str, list[str]] = {}
        for tag, trained in published.pretrained(name).items():
            activations.setdefault(f"'{published.activation(trained)}'", []).append(tag)
            given = {each: trained[each] for each in published.CONVENTIONS}
            values = ", ".join(
                f"{each}: {list(value) if isinstance(value, tuple) else value}" for each, value in given.items()
            )
            images.setdefault(f"{{{values}}}", []).append(tag)
        for field, differ, tags in (
            ("activation", "have different activations, and a file does not say which; set", activations),
            ("preprocess", "take differently prepared images, and a file does not say which; set", images),
        ):
            if getattr(self, field) is None and len(tags) > 1:
                choices = " or ".join(f"{value} ({listed(names)})" for value, names in sorted(tags.items()))
                raise ValueError(
                    f"weights of {name} {differ} '{field}' to that of the weights from which these were trained: {choices}"
                )

    @property
    def from_hub(self) -> bool:
        """True if the model is a repository of the hub in open_clip's layout."""
        return (self.open_clip or "").startswith("hf-hub:")

    @property
    def tag(self) -> str | None:
        """Pretrained tag of open_clip, or None."""
        return self.weights.tag if self.weights else None

    @property
    def published(self) -> dict[str, Any]:
        """Origin and conventions of the weights of a tag, as open_clip lists them. Empty for other weights."""
        known = published.pretrained(self.open_clip) if self.open_clip and self.tag else {}
        return known.get(published.clean_tag(self.tag or ""), {})

    @property
    def hub(self) -> dict[str, str]:
        """Names of the hub that the model is built from: of the weights, of the tokenizer and of the text tower.

        A model of the hub can name a tokenizer and a text tower in its own configuration.
        """
        if self.from_hub:
            return {"weights": (self.open_clip or "").removeprefix("hf-hub:")}
        names = {"weights": self.published.get("hf_hub", ""), **text_files(self.architecture)}
        return {role: name for role, name in names.items() if name and not Path(name).is_dir()}

    @property
    def text_folders(self) -> dict[str, str]:
        """Local folders with the files of the tokenizer and the configuration of the text tower."""
        names = text_files(self.architecture)
        return {role: str(Path(name).resolve()) for role, name in names.items() if Path(name).is_dir()}

    @property
    def architecture(self) -> dict[str, Any]:
        """Copy of the ``model_cfg``, with the activation of the weights. Empty for a model of the hub, which has its own."""
        config = dict(self.config or {})
        if self.open_clip and not self.from_hub:
            config = published.architecture(self.open_clip)
        if self.activation:
            config["quick_gelu"] = self.activation == "quick_gelu"
        return config

    @property
    def pretrained(self) -> bool:
        """True if the model has pretrained weights."""
        return self.weights is not None or self.from_hub
