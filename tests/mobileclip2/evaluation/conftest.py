from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from mobileclip2.data.tar import TarWriter
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.models.image_text import ImageText
from tests.mobileclip2.evaluation.small_sets import CLASSES, Members, WriteSet, build_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model() -> ImageText:
    return build_model()


@pytest.fixture
def write_set(tmp_path: Path) -> WriteSet:
    """Write shards of (key, members) and the text files. A text of None leaves out the file."""

    def write(
        *shards: Sequence[tuple[str, Members]],
        name: str = "pets",
        files: Mapping[str, str | None] | None = None,
    ) -> EvaluationSet:
        folder = tmp_path / name
        (folder / "test").mkdir(parents=True)
        for number, shard in enumerate(shards):
            with TarWriter(folder / "test" / f"{number}.tar") as tar:
                for key, members in shard:
                    tar.write(key, members)
        texts = {
            "classnames.txt": "\n".join(CLASSES) + "\n",
            "zeroshot_classification_templates.txt": "a photo of a {c}.\n{c}\n",
            "test/nshards.txt": f"{len(shards)}\n",
        }
        for file, text in {**texts, **(files or {})}.items():
            if text is not None:
                (folder / file).write_text(text)
        return EvaluationSet(name, folder)

    return write
