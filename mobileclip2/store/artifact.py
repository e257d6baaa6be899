"""Artifacts: one slice of an asset for one group, in a folder of the store."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from mobileclip2.errors import DamagedOutput
from mobileclip2.store.lease import Fence, Lease
from mobileclip2.store.manifest import File, Manifest, ManifestSummary
from mobileclip2.store.stat_cache import DOUBTED, StatCache
from mobileclip2.store.storage import LocalStorage, Storage, explained, file_sha256
from mobileclip2.store.verified import has_hash

RECORD = ".sha256"
"""suffix of the file with the hash of a file, until the manifest is written"""


def artifact_prefix(asset: str, fingerprint: str, group: str | None) -> str:
    """Return the prefix of an artifact in its store."""
    # A "/" in the name of an evaluation set must not create a folder. Fingerprints keep such names apart.
    return f"{asset}/{fingerprint}" + (f"/{group.replace('/', '-')}" if group else "")


class ArtifactFolder:
    """The folder ``<asset>/<fingerprint>/<group>`` of a store.

    Files can be added and deleted until :meth:`commit` writes the manifest. Then the folder is immutable. Until then, on a disk,
    the hash of each file is in ``<name>.sha256``. In a bucket it is in the object's metadata.
    """

    def __init__(self, storage: Storage, asset: str, fingerprint: str, group: str | None) -> None:
        self.storage = storage
        self.prefix = artifact_prefix(asset, fingerprint, group)
        self.fence: Fence = Lease()

    def key(self, name: str) -> str:
        """Return the storage key of a file."""
        return f"{self.prefix}/{name}"

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return self.storage.exists(self.key(name))

    def names(self) -> set[str]:
        """Return the names of all files."""
        keys = (key for key, _ in self.storage.list(f"{self.prefix}/") if not key.endswith(RECORD))
        return {key.removeprefix(f"{self.prefix}/") for key in keys}

    def read(self, name: str) -> bytes:
        """Read a file."""
        return self.storage.read(self.key(name))

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        self.fence.check()
        self.storage.delete(self.key(name))
        if self._has_records:
            self.storage.delete(self.key(name) + RECORD)

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically."""
        self.fence.check()
        if self._has_records:
            self._record(name, hashlib.sha256(data).hexdigest())
        self.storage.write(self.key(name), data)

    def put(self, name: str, path: Path) -> None:
        """Store a local file under ``name``."""
        self.fence.check()
        if self._has_records:
            self._record(name, file_sha256(path))
        self.storage.put(self.key(name), path)

    def is_intact(self, name: str) -> bool:
        """Return whether a file of an unfinished artifact has the bytes that were written."""
        if not self._has_records:
            return self.storage.is_complete(self.key(name))
        return self._recorded(name) == self.storage.describe(self.key(name))[1]

    def _record(self, name: str, sha256: str) -> None:
        path = self.storage.fetch(self.key(name) + RECORD)
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(sha256)  # a killed writer leaves a wrong hash, so that the shard is recomputed

    def _recorded(self, name: str) -> str | None:
        try:
            return self.storage.read(self.key(name) + RECORD).decode(errors="replace") if self._has_records else None
        except FileNotFoundError:
            return None

    @property
    def _has_records(self) -> bool:
        return isinstance(self.storage, LocalStorage)

    def fetch(self, name: str) -> Path:
        """Return the path of a local copy of ``name``.

        Raises:
            DamagedOutput: the file is missing.
        """
        with suppress(FileNotFoundError):
            path = self.storage.fetch(self.key(name))
            if path.is_file():
                return path
        raise self._damaged(name, "stored file is gone")

    def describe(self, names: list[str]) -> list[File]:
        """Return the manifest entries of files: name, size and hash.

        Raises:
            DamagedOutput: a file is missing or truncated, or changed after it was written.
        """
        files = []
        for name in sorted(names):
            try:
                size, sha256 = self.storage.describe(self.key(name))
            except FileNotFoundError:
                raise self._damaged(name, "stored file is gone") from None
            if not self.storage.is_complete(self.key(name)):
                raise self._damaged(name, "the file is truncated")
            if self._recorded(name) not in (None, sha256):
                raise self._damaged(name, "it changed after it was written")
            files.append(File(name=name, size=size, sha256=sha256))
        return files

    def _damaged(self, name: str, damage: str) -> DamagedOutput:
        return DamagedOutput(f"{self.storage.url}/{self.key(name)}: {damage}; run again to recompute it")

    def commit(self, manifest: Manifest) -> None:
        """Delete leftovers of killed writers, write the manifest, and delete the hashes that it replaces.

        The write is conditional, so that a process which was stopped after it renewed its lease replaces no manifest of the
        next holder.

        Raises:
            LeaseLost: another process holds the lease.
        """
        self.fence.check()
        self.storage.delete_temporary(self.prefix)
        key, data = self.key("manifest.json"), manifest.to_bytes()
        self.fence.renew()
        while not self.storage.create(key, data):
            # either this process or the one that wrote it has lost the lease
            found = self.storage.version_token(key)
            self.fence.renew()
            if found and self.storage.replace(key, data, found):
                break
        if self._has_records:
            for key, _ in list(self.storage.list(f"{self.prefix}/")):
                if key.endswith(RECORD):
                    self.storage.delete(key)

    def read_manifest(self) -> Manifest | None:
        """Return the manifest, or None if it does not exist.

        Raises:
            DamagedOutput: the manifest is invalid or belongs to another folder.
        """
        try:
            data = self.read("manifest.json")
        except FileNotFoundError:
            return None
        try:
            manifest = Manifest.from_bytes(data)
            if (prefix := artifact_prefix(manifest.asset, manifest.fingerprint, manifest.group)) != self.prefix:
                raise ValueError(f"it belongs to {prefix}")
            return manifest
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise self._damaged("manifest.json", f"not a valid manifest ({error})") from error

    def verify(self, manifest: Manifest, *, every_byte: bool = True) -> list[str]:
        """Return a message for each file that is missing or differs from the manifest.

        Files are hashed if ``every_byte``. Otherwise only their sizes are compared.
        """
        problems = []
        sizes = dict(self.storage.list(f"{self.prefix}/"))
        for file in manifest.files:
            size = sizes.get(self.key(file.name))
            if size is None:
                problems.append(f"{self.key(file.name)} is gone")
            elif size != file.size or (every_byte and file_sha256(self.fetch(file.name)) != file.sha256):
                problems.append(f"{self.key(file.name)} differs from its manifest")
        return problems

    def discard(self) -> None:
        """Delete the folder."""
        # The manifest goes first, so that an interrupted deletion leaves no artifact that looks complete.
        self.delete("manifest.json")
        self.storage.delete_folder(self.prefix)


class Artifact(ArtifactFolder):
    """A finished artifact. It is immutable, and :meth:`fetch` compares its files with the manifest."""

    def __init__(self, storage: Storage, summary: ManifestSummary) -> None:
        super().__init__(storage, summary.asset, summary.fingerprint, summary.group)
        self.summary = summary

    @cached_property
    def manifest(self) -> Manifest:
        """Return the manifest.

        Raises:
            DamagedOutput: the manifest is gone.
        """
        manifest = self.read_manifest()
        if manifest is None:
            raise DamagedOutput(f"{self.storage.url}/{self.prefix}: its manifest is gone; run again")
        return manifest

    @cached_property
    def _files(self) -> dict[str, File]:
        return {file.name: file for file in self.manifest.files}

    def fetch(self, name: str) -> Path:
        """Return the path of a local copy of ``name``.

        Its bytes are compared with the hash in the manifest when a process first fetches it. On a machine with several
        ranks of a training, only the first one compares.

        Raises:
            DamagedOutput: the file is gone, or differs from the manifest. The next plan then compares the whole artifact.
        """
        try:
            path = super().fetch(name)
            file = self._files.get(name)
            is_first = not int(os.environ.get("LOCAL_RANK", "0"))
            if file and (path.stat().st_size != file.size or (is_first and not has_hash(path, file.sha256))):
                raise self._damaged(name, "it no longer matches its manifest")
        except DamagedOutput:
            StatCache().put(f"{self.storage.url}/{self.prefix}", DOUBTED, "")
            raise
        return path
