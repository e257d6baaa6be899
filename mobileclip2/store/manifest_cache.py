"""A cache of manifest summaries, invalidated by version tokens."""

from __future__ import annotations

from contextlib import suppress

from mobileclip2.errors import DamagedOutput
from mobileclip2.store.artifact import ArtifactFolder, artifact_prefix
from mobileclip2.store.manifest import ManifestSummary
from mobileclip2.store.stat_cache import DOUBTED, StatCache


class ManifestCache:
    """Manifest summaries by artifact.

    A cached summary is valid while the version tokens of the manifest and of its files are unchanged. Artifacts with more
    than :data:`~mobileclip2.store.manifest.WATCHED_FILES` files use the version token of their folder instead. Changed
    artifacts are verified by hash. With ``every_byte``, all artifacts are.
    """

    def __init__(self, *, every_byte: bool = False) -> None:
        self._stat_cache = StatCache()
        self._every_byte = every_byte

    def of(self, output: ArtifactFolder) -> ManifestSummary | None:
        """Return the manifest summary of an artifact, or None if it has no manifest.

        Raises:
            DamagedOutput: the manifest is invalid, or files are missing or differ from it. The message names them.
        """
        manifest_token = output.storage.version_token(output.key("manifest.json"))
        if manifest_token is None:
            return None
        url = f"{output.storage.url}/{output.prefix}"
        cached = self._stat_cache.get(url, manifest_token)
        if cached is not None and not self._every_byte:
            tokens, _, text = cached.partition("\n")
            with suppress(ValueError):  # an entry that another program wrote
                summary = ManifestSummary.model_validate_json(text)
                prefix = artifact_prefix(summary.asset, summary.fingerprint, summary.group)
                if prefix == output.prefix and tokens == self._tokens(output, summary):
                    return summary
        manifest = output.read_manifest()
        if manifest is None:
            return None
        summary = manifest.summary()
        # Unknown artifacts are checked by size only, because hashing a complete store is slow.
        problems = output.verify(manifest, every_byte=self._every_byte or self._stat_cache.contains(url))
        if problems:
            self._stat_cache.put(url, DOUBTED, "")  # the next plan hashes the artifact again
            raise DamagedOutput(f"{output.storage.url}: {'; '.join(problems)}")
        self._stat_cache.put(url, manifest_token, f"{self._tokens(output, summary)}\n{summary.model_dump_json()}")
        return summary

    def _tokens(self, output: ArtifactFolder, summary: ManifestSummary) -> str:
        if summary.watched is None:
            return output.storage.folder_token(output.prefix)
        return " ".join(output.storage.version_token(output.key(name)) or "gone" for name in summary.watched)
