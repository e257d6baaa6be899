"""One part of an asset for one group, while it is written and when it is read."""

from __future__ import annotations

from pathlib import Path

from mobileclip2.errors import DamagedOutput
from mobileclip2.store.manifest import File, Manifest
from mobileclip2.store.storage import Storage, file_sha256


def place_of(asset: str, fingerprint: str, group: str | None) -> str:
    """Folder of an output in its store."""
    # the slash of an evaluation set's name makes no folder; two names that meet so have other fingerprints
    return f"{asset}/{fingerprint}" + (f"/{group.replace('/', '-')}" if group else "")


class ArtifactFolder:
    """The folder ``<asset>/<fingerprint>/<group>`` of a store.

    Files may come and go until :meth:`close` writes the manifest; from then on the folder is immutable.
    """

    def __init__(self, storage: Storage, asset: str, fingerprint: str, group: str | None) -> None:
        self.storage = storage
        self.prefix = place_of(asset, fingerprint, group)

    def key(self, name: str) -> str:
        """Return the key of a file in the store."""
        return f"{self.prefix}/{name}"

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return self.storage.exists(self.key(name))

    def names(self) -> set[str]:
        """Of all files that are there."""
        return {key.removeprefix(f"{self.prefix}/") for key, _ in self.storage.list(f"{self.prefix}/")}

    def read(self, name: str) -> bytes:
        """Read a file."""
        return self.storage.read(self.key(name))

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        self.storage.delete(self.key(name))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        self.storage.write(self.key(name), data)

    def put(self, name: str, path: Path) -> None:
        """Store a local file under ``name``."""
        self.storage.put(self.key(name), path)

    def fetch(self, name: str) -> Path:
        """Return a local file with the bytes of ``name``.

        Raises:
            DamagedOutput: the file is gone.
        """
        try:
            path = self.storage.fetch(self.key(name))
        except FileNotFoundError:
            path = Path()
        if not path.is_file():
            raise self._gone(name)
        return path

    def describe(self, names: list[str]) -> list[File]:
        """Return what a manifest says of files.

        Raises:
            DamagedOutput: one is gone or cut off, which no reader would notice once the manifest says so too.
        """
        return [self._describe(name) for name in sorted(names)]

    def _describe(self, name: str) -> File:
        try:
            size, sha256 = self.storage.describe(self.key(name))
        except FileNotFoundError:
            raise self._gone(name) from None
        if not self.storage.is_whole(self.key(name)):
            raise DamagedOutput(
                f"{self.storage.url}/{self.key(name)}: stored file was cut off; run again, it is computed anew"
            )
        return File(name=name, size=size, sha256=sha256)

    def _gone(self, name: str) -> DamagedOutput:
        return DamagedOutput(
            f"{self.storage.url}/{self.key(name)}: stored file is gone; run again, it is found missing and computed anew"
        )

    def close(self, manifest: Manifest) -> None:
        """Delete what killed writers left, and write the manifest."""
        self.storage.tidy(self.prefix)
        self.write("manifest.json", manifest.to_bytes())

    def manifest(self) -> Manifest | None:
        """Return the manifest, or None while there is none.

        Raises:
            DamagedOutput: there is one, and it cannot be trusted.
        """
        try:
            data = self.read("manifest.json")
        except FileNotFoundError:
            return None
        try:
            manifest = Manifest.from_bytes(data)
            if (place := place_of(manifest.asset, manifest.fingerprint, manifest.group)) != self.prefix:
                raise ValueError(f"it belongs to {place}")
            return manifest
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DamagedOutput(
                f"{self.storage.url}/{self.key('manifest.json')}: not a manifest as written here ({error}); "
                "run again, it is computed anew"
            ) from error

    def verify(self, manifest: Manifest, *, every_byte: bool = True) -> list[str]:
        """Names every stored file that is gone or differs from the manifest, with how; by size alone unless ``every_byte``."""
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
        """Delete everything, the manifest first, so that no reader trusts what is left."""
        self.storage.delete(self.key("manifest.json"))
        self.storage.delete_folder(self.prefix)
