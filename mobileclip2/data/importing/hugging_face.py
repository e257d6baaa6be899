"""Rows of a Hugging Face data set on this machine: a folder of ``save_to_disk``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mobileclip2.data.importing.row import Row
from mobileclip2.data.importing.tables import GUESSED, Columns, Table
from mobileclip2.errors import UserError
from mobileclip2.extras import needs
from mobileclip2.names import listed

MARKERS = ("dataset_info.json", "dataset_dict.json")
"""files of a folder that ``save_to_disk`` wrote"""


def saved_dataset(path: Path, columns: Columns = GUESSED, split: str | None = None) -> Iterator[Row]:
    """Yield the rows of a data set that ``datasets.Dataset.save_to_disk`` wrote. ``split`` is needed if it has several."""
    with needs("datasets"):
        import datasets
    with _readable(path):
        data = datasets.load_from_disk(str(path))
    if isinstance(data, datasets.DatasetDict):
        names = list(data)
        if split is None and len(names) > 1:
            raise UserError(f"{path}: it has the splits {listed(names)}; choose one with --split")
        chosen_split = split or names[0]
        if chosen_split not in data:
            raise UserError(f"{path}: there is no split '{chosen_split}'; it has {listed(names)}")
        data = data[chosen_split]
    images = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
    for name in images:
        data = data.cast_column(name, datasets.Image(decode=False))
    table = Table(path, path, replace(columns, image=columns.image or next(iter(images), None)))
    table.__dict__["_names"] = data.column_names
    chosen = table.chosen
    feature = data.features.get(chosen.label) if chosen.label else None
    classes = feature.names if isinstance(feature, datasets.ClassLabel) else None
    with _readable(path):
        for number, record in enumerate(data, 1):
            if classes and chosen.label:
                index = record[chosen.label]  # -1 if the picture has no class
                record[chosen.label] = classes[index] if index in range(len(classes)) else None
            yield table.row(number, record, chosen)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the package raises what its JSON and Arrow readers raise
        raise UserError(f"{path}: the data set is damaged ({error}); save it again") from error
