"""The one file that makes a group's output readable: written last, atomically. No manifest, no output."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from mobileclip2.fingerprint import canonical, fingerprint

SCHEMA_VERSION = 1

WATCHED_FILES = 256
"""Up to so many files of an output a plan looks at each; of more, at their folder alone."""


def identify(asset: str, code_version: str, declared: dict[str, Any], inputs: dict[str, str]) -> str:
    """Return the fingerprint of a part: of its code, what it declares, and the data versions of what it reads."""
    return fingerprint({"asset": asset, "code_version": code_version, "declared": declared, "inputs": inputs})


class File(BaseModel):
    """A file of an output, with the size and hash that it had when it was stored."""

    model_config = ConfigDict(frozen=True)

    name: str
    """relative to the manifest's folder"""
    size: int
    sha256: str


class ManifestFields(BaseModel):
    """What a manifest says apart from its files."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    asset: str
    part: str
    group: str | None
    fingerprint: str
    code_version: str
    declared: dict[str, Any]
    inputs: dict[str, str]
    """role -> data version of what was read"""
    samples: int
    skipped: int
    skip_reasons: dict[str, int]
    facts: dict[str, Any]
    """numbers that readers of the output need: dimensions, sizes, hashes of weights"""

    @property
    def identity(self) -> str:
        """The fingerprint that follows from what was declared and read."""
        return identify(self.asset, self.code_version, self.declared, self.inputs)


class ManifestSummary(ManifestFields):
    """A manifest without its list of files, which for thousands of shards is long: what a plan looks at."""

    data_version: str
    size: int
    """bytes"""
    watched: list[str] | None
    """names of the files, where they are few enough to look at each"""


class Manifest(ManifestFields):
    """What one part of an asset holds for one group.

    Nothing in it depends on when, where or how fast it was made, so that an interrupted and an undisturbed run give equal bytes.
    """

    files: list[File]

    @property
    def data_version(self) -> str:
        """Hash of the content alone: new code that writes the same bytes has the same data version."""
        content = {
            "files": [[file.name, file.size, file.sha256] for file in self.files],
            "samples": self.samples,
            "skipped": self.skipped,
            "facts": self.facts,
        }
        return hashlib.sha256(canonical(content).encode()).hexdigest()[:32]

    @property
    def size(self) -> int:
        """Return the bytes of all files together."""
        return sum(file.size for file in self.files)

    def head(self) -> ManifestSummary:
        """Return the manifest without its files. If they are few, their names are kept, so that a plan can look at them."""
        names = [file.name for file in self.files]
        return ManifestSummary(
            **self.model_dump(exclude={"files"}),
            data_version=self.data_version,
            size=self.size,
            watched=names if len(names) <= WATCHED_FILES else None,
        )

    def to_bytes(self) -> bytes:
        """Serialize the manifest as JSON, always to the same bytes."""
        body = {"data_version": self.data_version, **self.model_dump()}
        return (json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            ValueError: it is not whole, not a manifest, or its content is not what it says of itself.
        """
        body = json.loads(data)
        stated = body.pop("data_version")
        manifest = cls.model_validate(body)
        if manifest.data_version != stated:
            raise ValueError(f"its data version is {manifest.data_version}, but it says {stated}")
        if manifest.identity != manifest.fingerprint:
            raise ValueError(f"its fingerprint is {manifest.identity}, but it says {manifest.fingerprint}")
        return manifest
