"""Where bytes live: immutable paths by asset, fingerprint and group, each group closed by one manifest."""

from mobileclip2.store.artifact import ArtifactFolder
from mobileclip2.store.manifest import File, Manifest, ManifestSummary
from mobileclip2.store.s3 import S3Storage
from mobileclip2.store.storage import LocalStorage, Storage

__all__ = [
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
    """Open the storage of an ``s3://`` URL or of a local folder."""
    return S3Storage(url) if url.startswith("s3://") else LocalStorage(url)
