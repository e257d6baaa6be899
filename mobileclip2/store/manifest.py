"""Manifests: the file of an artifact that is written last. An artifact exists if its manifest exists."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from mobileclip2.asset_key import AssetKey
from mobileclip2.fingerprint import canonical, fingerprint

WATCHED_FILES = 256
"""maximum number of files whose version tokens a plan checks; with more files it checks their folder"""


def identify(asset: str, code_version: str, declared: dict[str, Any], inputs: dict[str, str]) -> str:
    """Return the fingerprint of a slice: a hash of code version, declared fields and data versions of the inputs."""
    return fingerprint({"asset": asset, "code_version": code_version, "declared": declared, "inputs": inputs})


class File(BaseModel, frozen=True):
    """A file of an artifact with its size in bytes and its sha256."""

    name: str
    """relative to the manifest's folder"""
    size: int
    sha256: str


class ManifestFields(BaseModel, frozen=True):
    """The fields of a manifest without its files."""

    schema_version: int = 1
    asset: AssetKey
    part: str
    group: str | None
    fingerprint: str
    code_version: str
    declared: dict[str, Any]
    inputs: dict[str, str]
    """data version of each input by role"""
    samples: int
    skipped: int
    skip_reasons: dict[str, int]
    facts: dict[str, Any]
    """metadata for readers: dimensions, sizes, hashes of weights"""


class ManifestSummary(ManifestFields):
    """A manifest without its list of files, which can be long. Plans use it."""

    data_version: str
    size: int
    """bytes"""
    watched: list[str] | None
    """names of the files, or None if there are more than ``WATCHED_FILES``"""


class Manifest(ManifestFields):
    """Contents of one slice of an asset for one partition.

    A manifest does not depend on time, machine or speed, so that an interrupted and an uninterrupted run write equal bytes.
    """

    files: list[File]

    @property
    def data_version(self) -> str:
        """Hash of the content. New code that writes the same bytes gives the same data version."""
        content = {
            "files": [[file.name, file.size, file.sha256] for file in self.files],
            "samples": self.samples,
            "skipped": self.skipped,
            "facts": self.facts,
        }
        return hashlib.sha256(canonical(content).encode()).hexdigest()[:32]

    def summary(self) -> ManifestSummary:
        """Return the manifest without its list of files."""
        names = [file.name for file in self.files]
        return ManifestSummary(
            **self.model_dump(exclude={"files"}),
            data_version=self.data_version,
            size=sum(file.size for file in self.files),
            watched=names if len(names) <= WATCHED_FILES else None,
        )

    def to_bytes(self) -> bytes:
        """Serialize the manifest as deterministic JSON."""
        body = {"data_version": self.data_version, **self.model_dump()}
        return (json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse a manifest.

        Raises:
            ValueError: the JSON is invalid, or the data version, the fingerprint or the number of skipped samples does not
                match the content.
        """
        body = json.loads(data)
        stated = body.pop("data_version")
        manifest = cls.model_validate(body)
        if manifest.data_version != stated:
            raise ValueError(f"its data version is {manifest.data_version}, but it says {stated}")
        identity = identify(manifest.asset, manifest.code_version, manifest.declared, manifest.inputs)
        if identity != manifest.fingerprint:
            raise ValueError(f"its fingerprint is {identity}, but it says {manifest.fingerprint}")
        if sum(manifest.skip_reasons.values()) != manifest.skipped:
            raise ValueError(f"it skips {manifest.skipped} samples, but its reasons are {manifest.skip_reasons}")
        return manifest
