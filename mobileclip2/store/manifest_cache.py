"""The heads of stored manifests: read and checked when first seen or when anything about them has changed, else remembered."""

from __future__ import annotations

from mobileclip2.errors import DamagedOutput
from mobileclip2.store.artifact import ArtifactFolder
from mobileclip2.store.manifest import ManifestSummary
from mobileclip2.store.stat_cache import StatCache


class ManifestCache:
    """Heads by output.

    A plan asks for thousands. What is cheaply seen to be as it was is trusted: the manifest, and its files where they are
    few (:data:`~mobileclip2.store.manifest.WATCHED_FILES`), else their folder, which changes when one of them comes or
    goes. What changed is hashed anew; with ``every_byte`` everything is.
    """

    def __init__(self, *, every_byte: bool = False) -> None:
        self._remembered = StatCache()
        self._every_byte = every_byte

    def of(self, output: ArtifactFolder) -> ManifestSummary | None:
        """Return the head of an output, or None while it has no manifest.

        Raises:
            DamagedOutput: the manifest cannot be trusted, or files of it are gone or differ; names them.
        """
        manifest_look = output.storage.look(output.key("manifest.json"))
        if manifest_look is None:
            return None
        place = f"{output.storage.url}/{output.prefix}"
        known = self._remembered.recall(place, manifest_look)
        if known is not None and not self._every_byte:
            seen, _, text = known.partition("\n")
            head = ManifestSummary.model_validate_json(text)
            if seen == self._seen(output, head):
                return head
        manifest = output.manifest()
        if manifest is None:
            return None
        head = manifest.head()
        # a place that was never looked at is taken at its word: a whole store is hashed when asked for
        problems = output.verify(manifest, every_byte=self._every_byte or self._remembered.known(place))
        if problems:
            self._remembered.keep(place, "damaged", "")  # whoever comes next hashes it again
            raise DamagedOutput(f"{output.storage.url}: {'; '.join(problems)}")
        self._remembered.keep(place, manifest_look, f"{self._seen(output, head)}\n{head.model_dump_json()}")
        return head

    def _seen(self, output: ArtifactFolder, head: ManifestSummary) -> str:
        if head.watched is None:
            return output.storage.look_into(output.prefix)
        return " ".join(output.storage.look(output.key(name)) or "gone" for name in head.watched)
