"""Incremental decoding with open_clip's two CoCa text transformers.

Both transformers are causal. The class token and the padding follow the text, so no text position attends to them. Keys
and values of earlier positions therefore never change and can be cached.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.coca_model import CoCa
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import nn
from torch.nn import functional as F

from mobileclip2.errors import UserError


class CachedDecoder:
    """Next-token logits for rows that each attend to one image of a batch.

    ``images`` is ``[i, T, width]``, and ``image_of`` contains the image index of each row. The cache contains
    2 * layers * width * (rows * length * 2 + i * T) numbers.
    """

    def __init__(self, model: CoCa, images: torch.Tensor, image_of: Sequence[int], length: int) -> None:
        if not isinstance(model.text, TextTransformer):
            raise UserError("captioner: only the text tower of open_clip supports incremental decoding")
        self.text, self.head = model.text, model.text_decoder
        self.text_layers = [SelfAttention(block, length) for block in self.text.transformer.resblocks]
        self.decoder = [
            (SelfAttention(block, length), CrossAttention(cross, images))
            for block, cross in zip(self.head.resblocks, self.head.cross_attn, strict=True)
        ]
        self.position = 0
        self._assign_slots(torch.tensor(image_of, device=images.device))

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Append ``token [n]`` to the rows and return the logits of the next tokens, ``[n, V]``."""
        x = self.text.token_embedding(token) + self.text.positional_embedding[self.position]
        for layer in self.text_layers:
            x = layer(x, self.position)
        for layer, cross in self.decoder:
            x = cross(layer(x, self.position), self.image_of, self.slot, self.slots)
        self.position += 1
        logits: torch.Tensor = self.head.ln_final(x) @ self.head.text_projection
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows except ``rows``, and the images without a row."""
        for layer in (*self.text_layers, *(layer for layer, _ in self.decoder)):
            layer.keep(rows)
        images, image_of = self.image_of[rows].unique(return_inverse=True)
        for _, cross in self.decoder:
            cross.keep(images)
        self._assign_slots(image_of)

    def _assign_slots(self, image_of: torch.Tensor) -> None:
        """Assign a slot to each row, so that one matrix product computes the attention of all rows of an image."""
        self.image_of = image_of
        order = image_of.argsort(stable=True)
        counts = image_of.bincount()
        first = counts.cumsum(0) - counts
        self.slot = torch.empty_like(image_of)
        self.slot[order] = torch.arange(len(image_of), device=image_of.device) - first[image_of[order]]
        self.slots = int(counts.max())


class SelfAttention:
    """A transformer block that computes one position and caches the keys and values of earlier positions."""

    def __init__(self, block: nn.Module, length: int) -> None:
        if not isinstance(block, ResidualAttentionBlock):
            raise UserError("captioner: incremental decoding does not support open_clip's custom attention blocks")
        self.block, self.length = block, length
        self.heads: int = block.attn.num_heads
        self.cache = torch.empty(0)

    def __call__(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """Compute ``position`` for ``x [n, width]``."""
        attn = self.block.attn
        n, width = x.shape
        qkv = F.linear(self.block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        query, key, value = qkv.view(n, 3, self.heads, 1, width // self.heads).unbind(1)
        if position == 0:
            self.cache = key.new_empty(2, n, self.heads, self.length, width // self.heads)
        self.cache[0, :, :, position : position + 1] = key
        self.cache[1, :, :, position : position + 1] = value
        keys, values = self.cache[:, :, :, : position + 1]
        return _finish_block(self.block, x, F.scaled_dot_product_attention(query, keys, values).reshape(n, width))

    def keep(self, rows: torch.Tensor) -> None:
        """Keep the cached keys and values of ``rows`` only."""
        self.cache = self.cache[:, rows]


class CrossAttention:
    """A cross-attention block that projects the keys and values of each image once for all its rows."""

    def __init__(self, block: ResidualAttentionBlock, images: torch.Tensor) -> None:
        self.block = block
        self.heads: int = block.attn.num_heads
        i, tokens, width = images.shape
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        projected = F.linear(block.ln_1_kv(images), weight[width:], bias[width:])
        heads = projected.view(i, tokens, 2, self.heads, width // self.heads)
        self.keys, self.values = heads.permute(2, 0, 3, 1, 4).contiguous()

    def __call__(self, x: torch.Tensor, image_of: torch.Tensor, slot: torch.Tensor, slots: int) -> torch.Tensor:
        """Attend with ``x [n, width]``. Row r is row ``slot[r]`` of ``slots`` of the image ``image_of[r]``."""
        attn = self.block.attn
        width = x.shape[-1]
        projected = F.linear(self.block.ln_1(x), attn.in_proj_weight[:width], attn.in_proj_bias[:width])
        query = projected.new_zeros(len(self.keys), slots, width)
        query[image_of, slot] = projected
        query = query.view(len(self.keys), slots, self.heads, -1).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, self.keys, self.values).transpose(1, 2).flatten(2)
        return _finish_block(self.block, x, attended[image_of, slot])

    def keep(self, images: torch.Tensor) -> None:
        """Keep the keys and values of ``images`` only."""
        if len(images) < len(self.keys):
            self.keys, self.values = self.keys[images], self.values[images]


def _finish_block(block: ResidualAttentionBlock, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    x = x + block.ls_1(block.attn.out_proj(attended))
    output: torch.Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return output
