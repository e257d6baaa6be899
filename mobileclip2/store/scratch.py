"""Scratch folders: unfinished work, such as checkpoints of a training, that survives its process and machine."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from mobileclip2.errors import DamagedOutput, StoreError
from mobileclip2.store.storage import LocalStorage, Storage, atomic_path, explained

logger = logging.getLogger(__name__)

FOLDER = ".scratch"
"""folder name in the store"""


class Scratch:
    """A local folder. If the store is a bucket, :meth:`save` copies files there and :meth:`restore` restores them.

    Raises:
        StoreError: the disk cannot be written, or the store cannot be read.
    """

    def __init__(self, folder: Path, storage: Storage, prefix: str) -> None:
        self.folder = folder
        self._storage, self._prefix = storage, f"{FOLDER}/{prefix}"
        self._is_remote = not isinstance(storage, LocalStorage)
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, *names: str) -> None:
        """Copy files of the folder to the store, in this order. Log a warning if the store is unreachable."""
        if not self._is_remote:
            return
        try:
            for name in names:
                self._storage.put(f"{self._prefix}/{name}", self.folder / name)
        except StoreError as error:
            logger.warning("%s: unfinished work is only on this machine: %s", self.folder, error)

    def restore(self) -> None:
        """Restore the files that were last kept, and delete all others. Only the first process of a machine does this.

        A file whose bytes in the store differ from its hash is not restored.
        """
        if not self._is_remote or int(os.environ.get("LOCAL_RANK", "0")):
            return
        # Other files are deleted, because machines must not resume from different checkpoints.
        stored = {key.rpartition("/")[2] for key, _ in self._storage.list(f"{self._prefix}/")}
        with explained(self.folder):
            for path in self.folder.glob("[!.]*"):  # another machine may be writing a temporary file with a dot
                if path.is_file() and path.name not in stored:
                    path.unlink(missing_ok=True)
        for name in sorted(stored):
            try:
                kept = self._storage.fetch(f"{self._prefix}/{name}")
            except DamagedOutput as error:
                logger.warning("%s: not restored, because its copy is damaged: %s", self.folder / name, error)
                (self.folder / name).unlink(missing_ok=True)
                continue
            with atomic_path(self.folder / name) as temporary:
                shutil.copyfile(kept, temporary)

    def clear(self) -> None:
        """Delete the folder here and in the store."""
        shutil.rmtree(self.folder)
        if self._is_remote:
            self._storage.delete_folder(self._prefix)
