"""Artifacts: one slice of an asset for one group, in a folder of the store."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from mobileclip2.errors import DamagedOutput
from mobileclip2.store.manifest import File, Manifest, ManifestSummary
from mobileclip2.store.storage import Storage, file_sha256


def artifact_prefix(asset: str, fingerprint: str, group: str | None) -> str:
    """Return the prefix of an artifact in its store."""
    # A "/" in the name of an evaluation set must not create a folder. Fingerprints keep such names apart.
    return f"{asset}/{fingerprint}" + (f"/{group.replace('/', '-')}" if group else "")


class ArtifactFolder:
    """The folder ``<asset>/<fingerprint>/<group>`` of a store.

    Files can be added and deleted until :meth:`commit` writes the manifest. Then the folder is immutable.
    """

    def __init__(self, storage: Storage, asset: str, fingerprint: str, group: str | None) -> None:
        self.storage = storage
        self.prefix = artifact_prefix(asset, fingerprint, group)

    def key(self, name: str) -> str:
        """Return the storage key of a file."""
        return f"{self.prefix}/{name}"

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return self.storage.exists(self.key(name))

    def names(self) -> set[str]:
        """Return the names of all files."""
        return {key.removeprefix(f"{self.prefix}/") for key, _ in self.storage.list(f"{self.prefix}/")}

    def read(self, name: str) -> bytes:
        """Read a file."""
        return self.storage.read(self.key(name))

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        self.storage.delete(self.key(name))

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically."""
        self.storage.write(self.key(name), data)

    def put(self, name: str, path: Path) -> None:
        """Store a local file under ``name``."""
        self.storage.put(self.key(name), path)

    def fetch(self, name: str) -> Path:
        """Return the path of a local copy of ``name``.

        Raises:
            DamagedOutput: the file is missing.
        """
        try:
            path = self.storage.fetch(self.key(name))
        except FileNotFoundError:
            path = Path()
        if not path.is_file():
            raise self._damaged(name, "stored file is gone")
        return path

    def describe(self, names: list[str]) -> list[File]:
        """Return the manifest entries of files: name, size and hash.

        Raises:
            DamagedOutput: a file is missing or truncated.
        """
        files = []
        for name in sorted(names):
            try:
                size, sha256 = self.storage.describe(self.key(name))
            except FileNotFoundError:
                raise self._damaged(name, "stored file is gone") from None
            if not self.storage.is_complete(self.key(name)):
                raise self._damaged(name, "the file is truncated")
            files.append(File(name=name, size=size, sha256=sha256))
        return files

    def _damaged(self, name: str, damage: str) -> DamagedOutput:
        return DamagedOutput(f"{self.storage.url}/{self.key(name)}: {damage}; run again to recompute it")

    def commit(self, manifest: Manifest) -> None:
        """Delete leftovers of killed writers and write the manifest."""
        self.storage.delete_temporary(self.prefix)
        self.write("manifest.json", manifest.to_bytes())

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
        except (ValueError, KeyError, AttributeError, TypeError) as error:
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
        self.storage.delete(self.key("manifest.json"))
        self.storage.delete_folder(self.prefix)


class Artifact(ArtifactFolder):
    """A finished artifact. It is immutable, and :meth:`fetch` compares the sizes of its files with the manifest."""

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
    def _sizes(self) -> dict[str, int]:
        return {file.name: file.size for file in self.manifest.files}

    def fetch(self, name: str) -> Path:
        """Return the path of a local copy of ``name``.

        Raises:
            DamagedOutput: the file is gone, or its size differs from the manifest.
        """
        path = super().fetch(name)
        size = path.stat().st_size
        if size != self._sizes.get(name, size):
            raise self._damaged(name, "it no longer matches its manifest")
        return path
