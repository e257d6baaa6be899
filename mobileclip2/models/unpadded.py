"""Encode texts without their padding.

A causal tower that pools at the end token ignores later tokens. Columns that are padding in every row of a batch can
therefore be dropped. Captions fill a fifth of CLIP's context of 77.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import nn


def encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Encode ``tokens [b, context]`` on the model's device like ``model.encode_text``, as ``[b, embed_dim]``.

    The features are equal up to rounding. Padding is dropped only for causal towers that pool at the end token.
    """
    device = next(model.parameters()).device
    tower: Any = model if isinstance(model, CLIP) else getattr(model, "text", None)
    pool, end = _pooling(tower)
    if pool not in ("argmax", "eos") or tower.attn_mask is None:
        features: torch.Tensor = model.encode_text(tokens.to(device))
        return features
    ends = (tokens if end is None or pool == "argmax" else tokens.eq(end).int()).argmax(-1)
    length = int(ends.max()) + 1
    tokens = tokens[:, :length].to(device)
    x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    pooled: torch.Tensor = text_global_pool(x, tokens, pool, end)
    projection: nn.Linear | torch.Tensor | None = tower.text_projection
    if projection is None:
        return pooled
    projected: torch.Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return projected


def _pooling(tower: Any) -> tuple[str | None, int | None]:
    """Return the pooling type and the end token of an open_clip text tower, or None for other towers."""
    if isinstance(tower, CLIP):
        return tower.text_pool_type, getattr(tower, "text_eos_id", None)
    # a class token follows the padding, as in CoCa
    if isinstance(tower, TextTransformer) and tower.cls_emb is None and not tower.output_tokens:
        return tower.pool_type, tower.eos_id
    return None, None
