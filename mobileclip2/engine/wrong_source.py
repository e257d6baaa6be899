"""Say how to make shards of what a source holds instead of tars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

UNPACK = {
    (".tar.gz", ".tgz"): "gunzip --keep",
    (".tar.zst", ".tar.zstd", ".tzst"): "zstd --decompress",
    (".tar.xz", ".txz"): "unxz --keep",
    (".tar.bz2", ".tbz2"): "bunzip2 --keep",
    (".tar.lz4",): "lz4 --decompress --multiple",
}
"""command that makes plain tars, by the endings of compressed ones"""

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ARCHIVES = (".zip", ".7z", ".rar", ".gz", ".zst", ".xz", ".bz2")


def is_tar(name: str) -> bool:
    """Return whether a file can be a tar by its name. A name without a known ending can."""
    others = (*(ending for endings in UNPACK for ending in endings), *TABLES, *PICTURES, *ARCHIVES)
    return not name.lower().endswith(others)


def advice(url: str, names: Sequence[str], section: str) -> str:
    """Return what to do about a location without a matching shard, by the names of its files."""
    if not names:
        exists = url.startswith("s3://") or Path(url).exists()
        return f"{'it is empty' if exists else 'it does not exist'}; check '{section}' in the profile"
    if any(PurePosixPath(name).name == "classnames.txt" for name in names):
        return f"it is an evaluation set; name it under 'evaluation' and not under '{section}'"
    for endings, command in UNPACK.items():
        if found := _ending_with(names, endings):
            ending = next(each for each in endings if found[0].lower().endswith(each))
            return (
                f"it has compressed tars such as '{found[0]}', which are not read. Make plain tars of them: "
                f"{command} *{found[0][-len(ending) :]}"
            )
    if found := _ending_with(names, (".tar",)):
        return f"it has tars such as '{found[0]}'; check 'pattern' of '{section}' in the profile"
    for kind, endings in (("pictures", PICTURES), ("tables", TABLES)):
        if found := _ending_with(names, endings):
            where, path = ("copy it to this machine and ", "FOLDER") if url.startswith("s3://") else ("", url)
            others = (".txt", ".caption", *TABLES)
            # names of folders can be labels
            if kind == "pictures" and not _ending_with(names, others) and not any("/" in name for name in names):
                path = f"{path} --captions TABLE"
            return (
                f"it has {kind} such as '{found[0]}'. To make shards of them, {where}run: "
                f"mobileclip2 import {path} -o shards/, and name the new folder in '{section}'"
            )
    if found := _ending_with(names, ARCHIVES):
        return (
            f"it has archives such as '{found[0]}', which are not read. Unpack them, and run: "
            "mobileclip2 import FOLDER -o shards/"
        )
    return f"it has files such as '{names[0]}'; check 'pattern' of '{section}' in the profile"


def _ending_with(names: Sequence[str], endings: tuple[str, ...]) -> list[str]:
    return [name for name in names if name.lower().endswith(endings)]
