from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from mobileclip2.models.batched import each_text_once


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_batches_keep_the_order_of_the_texts(batch: int) -> None:
    sizes: list[int] = []

    def embed(texts: Sequence[str]) -> torch.Tensor:
        sizes.append(len(texts))
        return torch.tensor([[float(text)] for text in texts])

    assert each_text_once(embed, list("4051623"), batch).squeeze(1).tolist() == [4, 0, 5, 1, 6, 2, 3]
    assert max(sizes) <= batch and sum(sizes) == 7


def test_equal_texts_are_embedded_once_and_short_texts_share_a_batch() -> None:
    batches: list[list[str]] = []

    def embed(texts: Sequence[str]) -> torch.Tensor:
        batches.append(list(texts))
        return torch.tensor([[float(len(text)), float(ord(text[0]))] for text in texts])

    texts = ["ccc", "a", "bb", "a", "d", "ccc"]
    found = each_text_once(embed, texts, 2)
    assert found.tolist() == [[len(text), ord(text[0])] for text in texts]
    assert batches == [["a", "d"], ["bb", "ccc"]]
