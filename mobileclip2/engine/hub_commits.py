"""Which commit of each hub repository a store uses.

A name without ``revision`` is resolved once, before the first stage that needs it. The commit is written to the store, so
that all machines and later runs use it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from mobileclip2.config.model import Model
from mobileclip2.fingerprint import canonical, fingerprint
from mobileclip2.store import Storage

logger = logging.getLogger(__name__)

FOLDER = ".models"
"""folder of the store with a JSON file for each model: its repositories and their commits"""


class HubCommits:
    """The recorded commits of one store."""

    def __init__(self, storage: Callable[[], Storage] | None = None) -> None:
        self._storage = storage
        self._read: dict[str, dict[str, str]] = {}

    def digest(self, model: Model) -> str:
        """Return the repositories of a model with their commits. Ask no network.

        A model without a record is not resolved yet. Its outputs cannot exist, because stages resolve it first.
        """
        commits = self.recorded(model)
        if not commits:
            return f"not resolved: {canonical(_source(model))}"
        return " ".join(f"{repository}@{commit}" for repository, commit in sorted(commits.items()))

    def recorded(self, model: Model) -> dict[str, str]:
        """Return the recorded commit of each repository. The dict is empty for a local model, and before the first resolution."""
        key = fingerprint(_source(model))
        if model.hub and key not in self._read and self._storage:
            try:
                self._read[key] = json.loads(self._storage().read(f"{FOLDER}/{key}.json"))["commits"]
            except FileNotFoundError:
                return {}
        return self._read.get(key, {})

    def resolve(self, model: Model, name: str) -> dict[str, str]:
        """Find the commits of a model of the hub, check that its files exist, and record the commits. Warn if a name has moved.

        Args:
            name: the field of the profile, for error messages.

        Raises:
            WeightsError: a file cannot be downloaded.
        """
        from mobileclip2.models.hub import find

        recorded = self.recorded(model)
        found = find(model, name, recorded)
        for repository, newest in found.moved.items():
            logger.warning(
                "%s: %s has moved from the commit %s to %s; the recorded one is used. To use the new one, set 'revision: %s'",
                name,
                repository,
                found.commits[repository],
                newest,
                newest,
            )
        if found.commits != recorded:
            key = fingerprint(_source(model))
            self._read[key] = found.commits
            if self._storage:
                record = {**_source(model), "commits": found.commits}
                self._storage().write(f"{FOLDER}/{key}.json", f"{json.dumps(record, indent=1)}\n".encode())
        return found.commits


def _source(model: Model) -> dict[str, str | None]:
    """Return what determines the repositories of a model."""
    return {**model.hub, "revision": model.revision}
