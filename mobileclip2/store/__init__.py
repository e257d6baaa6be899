"""Storage of artifacts: one folder per asset, fingerprint and partition, with one manifest each."""

from mobileclip2.store.artifact import Artifact, ArtifactFolder
from mobileclip2.store.manifest import File, Manifest, ManifestSummary
from mobileclip2.store.s3 import S3Storage
from mobileclip2.store.storage import LocalStorage, Storage

__all__ = [
    "Artifact",
    "ArtifactFolder",
    "File",
    "LocalStorage",
    "Manifest",
    "ManifestSummary",
    "S3Storage",
    "Storage",
    "open_storage",
]


def open_storage(url: str) -> Storage:
    """Open the storage at an ``s3://`` URL or in a local folder."""
    return S3Storage(url) if url.startswith("s3://") else LocalStorage(url)
