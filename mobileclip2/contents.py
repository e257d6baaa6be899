"""What lies outside the store: source shards, weight files, evaluation sets, and the content hashes that identify them.

A path never enters a fingerprint, its content does. Local hashes are remembered by (path, size, mtime, inode), so that planning
over hundreds of thousands of shards costs a ``stat`` each; in a bucket the ETag stands for the content.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mobileclip2.errors import ShardError, WeightsError
from mobileclip2.fingerprint import fingerprint
from mobileclip2.profile import Profile, Weights
from mobileclip2.remembered import Remembered, cache_folder
from mobileclip2.store.output import file_sha256
from mobileclip2.store.storage import S3Storage, atomic_path


@dataclass(frozen=True)
class Shard:
    """One input tar. ``id`` names its side files; it is unique even when two folders hold tars of one name."""

    id: str
    url: str
    relative: str

    def number(self) -> int:
        """The number at the end of the name, or a hash of it: decides the group, whatever other shards exist."""
        digits = re.search(r"(\d+)$", Path(self.relative).stem)
        return int(digits.group(1)) if digits else int(hashlib.sha256(self.relative.encode()).hexdigest()[:8], 16)


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


class Contents:
    """Lists and hashes the outside inputs of one profile; looks at each only once."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._remembered = Remembered()
        self._digests: dict[tuple[External, str | None], str] = {}

    @cached_property
    def shards(self) -> list[Shard]:
        """Every input shard of the profile, sorted by source and path.

        Raises:
            ShardError: a source is missing or holds no shard.
        """
        found = []
        for source in self.profile.sources:
            files = list_files(self.profile.locate(source.url), source.pattern)
            if not files:
                raise ShardError(
                    f"source '{source.name}': no shard matches '{source.pattern}' in {self.profile.locate(source.url)}; "
                    "check 'sources' in the profile"
                )
            for relative, url in files:
                unique = hashlib.sha256(f"{source.name}/{relative}".encode()).hexdigest()[:8]
                found.append(Shard(f"{Path(relative).stem}-{unique}", url, f"{source.name}/{relative}"))
        return found

    @cached_property
    def _by_group(self) -> dict[str, list[Shard]]:
        names = self.profile.group_names
        groups: dict[str, list[Shard]] = {name: [] for name in names}
        for shard in self.shards:
            groups[names[shard.number() % len(names)]].append(shard)
        return groups

    def group_shards(self, group: str) -> list[Shard]:
        return self._by_group[group]

    def corpus_shards(self, name: str) -> list[Shard]:
        """The tars of a caption corpus.

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
        return [
            Shard(f"{Path(relative).stem}-{hashlib.sha256(relative.encode()).hexdigest()[:8]}", path, relative)
            for relative, path in files
        ]

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
                return fingerprint(
                    [[shard.relative, self.file_digest(shard.url)] for shard in self.group_shards(group)]
                )
            case Folder(url, pattern):
                place = self.profile.locate(url)
                files = list_files(place, pattern)
                if not files:
                    raise ShardError(f"{place}: no such folder, or it is empty; check the profile")
                return fingerprint([[relative, self.file_digest(path)] for relative, path in files])
            case Pinned(weights):
                return self.weights_digest(weights)

    def file_digest(self, url: str) -> str:
        """sha256 of a local file, ETag of an object."""
        if url.startswith("s3://"):
            return split_s3(url)[0].etag(split_s3(url)[1])
        stat = Path(url).stat()
        look = f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"
        digest = self._remembered.recall(url, look)
        if digest is None:
            digest = file_sha256(Path(url))
            self._remembered.keep(url, look, digest)
        return digest

    def weights_digest(self, weights: Weights) -> str:
        if weights.sha256:
            return weights.sha256
        if weights.path:
            return self.file_digest(str(self.weights_path(weights)))
        return f"tag:{weights.tag}"

    def weights_path(self, weights: Weights) -> Path:
        """The local file of weights from a package or path, checked against its pinned hash.

        Raises:
            WeightsError: the file is missing or is not the pinned one.
        """
        if weights.package:
            name = weights.package.replace("-", "_")
            spec = importlib.util.find_spec(name)
            if spec is None or not spec.submodule_search_locations:
                raise WeightsError(f"weights: the package '{weights.package}' is not installed; run 'make setup'")
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


def split_s3(url: str) -> tuple[S3Storage, str]:
    """The storage of the bucket and the key of an ``s3://`` URL."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return S3Storage(f"s3://{bucket}"), key


def list_files(url: str, pattern: str) -> list[tuple[str, str]]:
    """(path relative to ``url``, path or URL) of every file that matches, sorted by relative path."""
    if url.startswith("s3://"):
        storage = S3Storage(url)
        names = [key for key, _ in storage.list("")]
        wanted = pattern.removeprefix("**/")
        return sorted(
            (name, f"{storage.url}/{name}")
            for name in names
            if fnmatch.fnmatch(name, wanted) or fnmatch.fnmatch(name, f"*/{wanted}")
        )
    root = Path(url)
    if root.is_file():
        return [(root.name, str(root))]
    return sorted((path.relative_to(root).as_posix(), str(path)) for path in root.glob(pattern) if path.is_file())


def local_copy(url: str) -> Path:
    """A local path with the bytes of a file or object.

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
    """A local folder with the content that a folder or prefix has now."""
    if not url.startswith("s3://"):
        return Path(url)
    storage = S3Storage(url)
    files = [(relative, storage.etag(relative)) for relative, _ in list_files(url, "**/*")]
    target = cache_folder() / "folders" / fingerprint([url, files])
    for relative, _ in files:
        if not (target / relative).exists():
            with atomic_path(target / relative) as temporary:
                shutil.copyfile(storage.fetch(relative), temporary)
    return target
