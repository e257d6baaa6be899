"""Rows of a folder: pictures beside their captions, class folders, or WebDataset tars."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.bounded_json import load_json
from mobileclip2.data.importing.row import PICTURES, Row, captions_of

CAPTIONS = (".txt", ".caption", ".json")
"""endings of caption files beside a picture, in the order in which they are tried"""


def pictures(folder: Path) -> list[Path]:
    """Return all picture files of a folder and its subfolders in the order of their paths.

    Hidden files and folders are left out. Links to folders are not followed.
    """
    paths = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [
            Path(root, name) for name in files if not name.startswith(".") and Path(name).suffix.lower() in PICTURES
        ]
    return sorted(paths, key=lambda path: path.relative_to(folder).parts)


def captioned_folder(folder: Path) -> Iterator[Row]:
    """Yield pictures with a ``.txt``, ``.caption`` or ``.json`` file of the same name beside each of them.

    img2dataset writes this layout with ``--output_format files``.
    """
    for path in pictures(folder):
        name = str(path.relative_to(folder))
        try:
            yield Row(str(path), name, path, _caption_beside(path))
        except BadSample as fault:
            yield Row(str(path), name, path, fault=fault)


def class_folders(folder: Path) -> Iterator[Row]:
    """Yield pictures in a folder for each class. The first subfolder ``golden_retriever`` is the class ``golden retriever``."""
    for path in pictures(folder):
        name = path.relative_to(folder)
        if len(name.parts) > 1:
            yield Row(str(path), str(name), path, label=" ".join(name.parts[0].replace("_", " ").split()))
        else:
            fault = BadSample("no-class", "the picture lies in no class folder")
            yield Row(str(path), str(name), path, fault=fault)


def has_captions(paths: list[Path]) -> bool:
    """Return whether one of the first pictures has a caption file in the same folder."""
    return any(path.with_suffix(ending).is_file() for path in paths[:100] for ending in CAPTIONS)


def _caption_beside(path: Path) -> tuple[str, ...]:
    for ending in CAPTIONS:
        beside = path.with_suffix(ending)
        try:
            data = beside.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BadSample("missing-caption", f"{beside}: {error.strerror}") from error
        try:
            if ending == ".json":
                return captions_of([load_json(data).get("caption")])
            return tuple(line for line in data.decode("utf-8-sig").splitlines() if line.strip())
        except (ValueError, AttributeError) as error:
            raise BadSample("invalid-caption", f"{beside}: {error}") from error
    raise BadSample("missing-caption", f"no {' or '.join(CAPTIONS)} file lies beside the picture")
