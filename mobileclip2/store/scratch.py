"""Unfinished work that is not divided by shards, such as a training: a folder that outlives its process, and its machine."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from mobileclip2.errors import StoreError
from mobileclip2.store.storage import LocalStorage, Storage, atomic_path, explain

logger = logging.getLogger(__name__)

FOLDER = ".scratch"
"""of a store"""


class Scratch:
    """A local folder. Where the store is a bucket, files that were kept lie there too, and are had back on another machine.

    Raises:
        StoreError: the disk cannot be written, or the store not be read.
    """

    def __init__(self, folder: Path, storage: Storage, prefix: str) -> None:
        self.folder = folder
        self._storage, self._prefix = storage, f"{FOLDER}/{prefix}"
        self._elsewhere = not isinstance(storage, LocalStorage)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            explain(error, str(folder))

    def keep(self, *names: str) -> None:
        """Store files of the folder, in this order. If the store is away, continue: the next call may succeed."""
        if not self._elsewhere:
            return
        try:
            for name in names:
                self._storage.put(f"{self._prefix}/{name}", self.folder / name)
        except StoreError as error:
            logger.warning("%s: what is unfinished is on this machine alone: %s", self.folder, error)

    def recall(self) -> None:
        """Restore the files of the folder that were kept last. Called once on each machine of a training.

        Others are deleted: machines that went on from different checkpoints would learn from each other's weights.
        """
        if not self._elsewhere or int(os.environ.get("LOCAL_RANK", "0")):
            return
        kept = {key.rpartition("/")[2] for key, _ in self._storage.list(f"{self._prefix}/")}
        try:
            for path in self.folder.glob("[!.]*"):  # another machine may be writing those with a dot now
                if path.is_file() and path.name not in kept:
                    path.unlink(missing_ok=True)
        except OSError as error:
            explain(error, str(self.folder))
        for name in sorted(kept):
            with atomic_path(self.folder / name) as temporary:
                shutil.copyfile(self._storage.fetch(f"{self._prefix}/{name}"), temporary)

    def clear(self) -> None:
        """Delete everything, because the work is done."""
        shutil.rmtree(self.folder)
        if self._elsewhere:
            self._storage.delete_folder(self._prefix)
