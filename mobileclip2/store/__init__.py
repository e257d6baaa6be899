"""Where bytes live: immutable paths by asset, fingerprint and group, each group closed by one manifest."""

from mobileclip2.store.manifest import File, Head, Manifest
from mobileclip2.store.output import Output
from mobileclip2.store.storage import LocalStorage, S3Storage, Storage, open_storage

__all__ = ["File", "Head", "LocalStorage", "Manifest", "Output", "S3Storage", "Storage", "open_storage"]
