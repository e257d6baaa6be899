"""Embed many texts in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def each_text_once(embed: Callable[[Sequence[str]], torch.Tensor], texts: Sequence[str], batch: int) -> torch.Tensor:
    """Apply ``embed`` once to each distinct text and return ``[len(texts), ...]`` on the CPU."""
    # Texts of similar length share a batch, so batches contain little padding.
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    index = {text: position for position, text in enumerate(distinct)}
    batches = [embed(distinct[start : start + batch]) for start in range(0, len(distinct), batch)]
    # A copy per batch would synchronize with the device, so one copy follows the last batch.
    return torch.cat(batches).cpu()[torch.tensor([index[text] for text in texts])]
