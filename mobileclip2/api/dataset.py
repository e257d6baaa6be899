"""Reinforced shards as a dataset of torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from mobileclip2.api.model import ImageTextModel
from mobileclip2.data.reinforced_format import CAPTIONS
from mobileclip2.errors import UserError
from mobileclip2.training.data import KEYS, ReinforcedSource

EVERY_CAPTIONER = f"^{CAPTIONS}.*$"


class ReinforcedDataset(Dataset[dict[str, Tensor]]):
    """Samples of reinforced shards, for a ``DataLoader``.

    A sample is a dictionary with these tensors, or those of ``keys``:

    - ``image``: a random stored view, ``[3, size, size]``, normalized for the model
    - ``text``, ``synthetic_text``: tokens ``[context]`` of the real caption and of a random synthetic caption
    - ``teacher_image``, ``teacher_text``, ``teacher_synthetic_text``: stored embeddings of the three, the concatenated
      embeddings of all teachers, ``[dim]``

    View and synthetic caption are a function of the seed, the epoch and the key of the sample. Call :meth:`set_epoch`
    before each epoch. Shards are read by random access and are not loaded into memory.

    Args:
        shards: tars of a reinforced dataset, as this project or DataCompDR stores them.
        model: the student, which says how images are prepared and texts tokenized.
        captions: regular expression for the fields of synthetic captions, such as ``^syn_text_mine$``.
        keys: the tensors of a sample.
        images: tars with the pictures, one for each of ``shards``, if the shards hold no pictures.
        teacher_dims: dimensions of each teacher by name, in the order of the embeddings, if they are known.
        logit_scales: logit scale of each teacher by name, if they are known.

    Raises:
        ShardError: a shard cannot be read.
        UserError: there is no shard, or no caption matches.
    """

    def __init__(
        self,
        shards: Iterable[str | os.PathLike[str]],
        model: ImageTextModel,
        *,
        seed: int = 0,
        captions: str = EVERY_CAPTIONER,
        keys: Sequence[str] = KEYS,
        images: Iterable[str | os.PathLike[str]] | None = None,
        teacher_dims: Mapping[str, int] | None = None,
        logit_scales: Mapping[str, float | None] | None = None,
    ) -> None:
        paths = [Path(shard) for shard in shards]
        if not paths:
            raise UserError("ReinforcedDataset: no shards; give the paths of reinforced tars")
        if other := [path for path in paths if path.suffix != ".tar"]:
            raise UserError(f"{other[0]}: not a tar; give the tars of a reinforced dataset")
        self._source = ReinforcedSource(
            paths,
            model.image_text.tokenize,
            model.image_text.preprocess,
            seed=seed,
            captions=captions,
            needs=keys,
            images=None if images is None else [Path(image) for image in images],
        )
        self._epoch = 0
        self.teacher_dims = dict(teacher_dims or {})
        self.logit_scales = dict(logit_scales or {})

    @property
    def dim(self) -> int:
        """Return the width of the concatenated embeddings of all teachers."""
        return self._source.dim

    def set_epoch(self, epoch: int) -> None:
        """Choose other views and captions. Workers of a ``DataLoader`` see it when the next iteration starts."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        sample = self._source.sample(self._epoch, index)
        if "image" in sample:
            sample["image"] = self._source.prepare(sample["image"][None])[0]
        return sample
