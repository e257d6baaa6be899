"""List files and objects outside the store, each with a version token that changes when its content can have changed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pathspec import PathSpec, RegexPattern

from mobileclip2.config.sources import Patterns
from mobileclip2.engine.wrong_source import UNPACK
from mobileclip2.errors import ShardError
from mobileclip2.store.s3 import S3Storage

_TAR_ENDING = re.compile(
    "|".join(rf"{re.escape(ending)}\Z" for ending in [".tar", *(each for endings in UNPACK for each in endings)]), re.I
)


class ListedFile(NamedTuple):
    """A file or object outside the store."""

    relative: str
    url: str
    version_token: str
    """Changes whenever the content can have changed: size, mtime, inode and ctime of a file, ETag of an object.

    It is compared within one run and is a key of caches. It is not part of a fingerprint, so a copied folder stays current.
    """


def list_source(urls: Sequence[str], pattern: Patterns) -> tuple[list[ListedFile], list[str]]:
    """List the files of several folders, prefixes, files or objects, and the locations without files.

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
    if not url.startswith("s3://") and (file := Path(url)).is_file():
        return [ListedFile(file.name, url, file_version(file.stat()))]
    matches = _matcher(pattern)
    found = sorted(each for each in _list_all(url) if matches(each.relative))
    for each in found:
        if not each.version_token:
            raise ShardError(
                f"{each.url}: neither a file nor a symbolic link to one; restore the target of the link, or exclude it with "
                "'pattern'"
            )
    return found


def list_unread(urls: Sequence[str], pattern: Patterns) -> list[str]:
    """List the files beside shards that no run reads, although they seem to be shards.

    These are tars that would match with the ending ``.tar`` in place of, for example, ``.TAR`` or ``.tar.gz``, and symbolic
    links without a target. A compressed tar beside its plain one is not listed.
    """
    matches = _matcher(pattern)
    unread = []
    for url in urls:
        if url.endswith(".tar"):  # a shard
            continue
        files = list(_list_all(url))
        names = {each.relative for each in files}
        for name, _, version_token in files:
            plain = _TAR_ENDING.sub(".tar", name)
            if not matches(name) and (not version_token or (plain not in names and matches(plain))):
                unread.append(name)
    return sorted(unread)


def _list_all(url: str) -> Iterator[ListedFile]:
    """List a folder or prefix. Symbolic links without a target, and devices, have no version token."""
    if not url.startswith("s3://"):
        yield from _walk(url, "")
        return
    storage = S3Storage(url)
    for key, etag in storage.etags():
        if not key.endswith("/"):  # bucket consoles create such keys to show folders
            yield ListedFile(key, f"{storage.url}/{key}", etag)


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
        else:
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                raise ShardError(f"{entry.path!a}: the file name is not UTF-8; rename it") from None
            yield ListedFile(relative + entry.name, entry.path, file_version(found) if found else "")


def file_version(stat: os.stat_result) -> str:
    """Return the version token of a file."""
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}:{stat.st_ctime_ns}"


def check_version(url: str, planned: str, found: str) -> None:
    """Raise ``ShardError``, with the fields that differ, if the version tokens of a file or object differ."""
    if planned == found:
        return
    names = ["ETag"] if url.startswith("s3://") else ["size", "modification time", "inode", "change time"]
    fields = zip(names, planned.split(":"), found.split(":"), strict=False)
    changes = ", ".join(f"{name} {before} -> {after}" for name, before, after in fields if before != after)
    raise ShardError(
        f"{url}: the file has changed since the run was planned ({changes}); leave the sources alone during a run, and run again"
    )
