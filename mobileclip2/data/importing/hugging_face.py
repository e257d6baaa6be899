"""Rows of a Hugging Face data set on this machine: a folder of ``save_to_disk``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobileclip2.data.importing.row import Row
from mobileclip2.data.importing.tables import GUESSED, Columns, Table
from mobileclip2.errors import UserError
from mobileclip2.extras import needs
from mobileclip2.names import listed

MARKERS = ("dataset_info.json", "dataset_dict.json")
"""files of a folder that ``save_to_disk`` wrote"""


@dataclass(frozen=True)
class HuggingFaceDataset:
    """Rows of a data set that ``datasets.Dataset.save_to_disk`` wrote. ``split`` is needed if it has several."""

    path: Path
    columns: Columns = GUESSED
    split: str | None = None

    def _load(self) -> Any:
        with needs("datasets"):
            import datasets
        with self._readable():
            loaded = datasets.load_from_disk(str(self.path))
        if isinstance(loaded, datasets.DatasetDict):
            names = list(loaded)
            if self.split is None and len(names) > 1:
                raise UserError(f"{self.path}: it has the splits {listed(names)}; choose one with --split")
            chosen = self.split or names[0]
            if chosen not in loaded:
                raise UserError(f"{self.path}: there is no split '{chosen}'; it has {listed(names)}")
            loaded = loaded[chosen]
        for name, feature in loaded.features.items():
            if isinstance(feature, datasets.Image):
                loaded = loaded.cast_column(name, datasets.Image(decode=False))
        return loaded

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (UserError, MemoryError):
            raise
        except Exception as error:  # the package raises what its JSON and Arrow readers raise
            raise UserError(f"{self.path}: the data set is damaged ({error}); save it again") from error

    def __iter__(self) -> Iterator[Row]:
        data = self._load()  # first, because it names the extra if the package is missing
        import datasets

        images = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
        columns = replace(self.columns, image=self.columns.image or (images[0] if images else None))
        table = Table(self.path, self.path, columns)
        table.__dict__["_names"] = data.column_names
        chosen = table.chosen
        feature = data.features.get(chosen.label) if chosen.label else None
        classes = feature.names if isinstance(feature, datasets.ClassLabel) else None
        with self._readable():
            for number, record in enumerate(data, 1):
                if classes and chosen.label:
                    index = record[chosen.label]  # -1 if the picture has no class
                    record[chosen.label] = classes[index] if index in range(len(classes)) else None
                yield table.row(number, record, chosen)
