"""open_clip's two CoCa text transformers, one token at a time.

The text tower appends its class token after the text and masks causally, so no text position ever sees it;
padding comes only after the last token. What position t feeds to the decoder is therefore final once written,
and can be kept.
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

    ``images`` is ``[i, T, width]`` and ``image_of`` gives the image of each row. Memory is that of the keys
    and values: 2 * layers * width * (rows * length * 2 + i * T) numbers.
    """

    def __init__(self, model: CoCa, images: torch.Tensor, image_of: Sequence[int], length: int) -> None:
        if not isinstance(model.text, TextTransformer):
            raise UserError("captioner: only open_clip's own text tower can write captions token by token")
        self.text, self.head = model.text, model.text_decoder
        self.own = [SelfAttention(block, length) for block in self.text.transformer.resblocks]
        self.decoder = [
            (SelfAttention(block, length), CrossAttention(cross, images))
            for block, cross in zip(self.head.resblocks, self.head.cross_attn, strict=True)
        ]
        self.position = 0
        self._seat(torch.tensor(image_of, device=images.device))

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Logits ``[n, V]`` of what follows ``token [n]``, the next token of each row."""
        x = self.text.token_embedding(token) + self.text.positional_embedding[self.position]
        for layer in self.own:
            x = layer(x, self.position)
        for layer, cross in self.decoder:
            x = cross(layer(x, self.position), self.image_of, self.seat, self.seats)
        self.position += 1
        logits: torch.Tensor = self.head.ln_final(x) @ self.head.text_projection
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with ``rows`` alone, and with the images they attend to."""
        for layer in (*self.own, *(layer for layer, _ in self.decoder)):
            layer.keep(rows)
        images, image_of = self.image_of[rows].unique(return_inverse=True)
        for _, cross in self.decoder:
            cross.keep(images)
        self._seat(image_of)

    def _seat(self, image_of: torch.Tensor) -> None:
        """Give each row a number among the rows of its image, so that one product serves all rows of an image."""
        self.image_of = image_of
        order = image_of.argsort(stable=True)
        counts = image_of.bincount()
        first = counts.cumsum(0) - counts
        self.seat = torch.empty_like(image_of)
        self.seat[order] = torch.arange(len(image_of), device=image_of.device) - first[image_of[order]]
        self.seats = int(counts.max())


class SelfAttention:
    """A block of either transformer on one new position, with the keys and values of the earlier ones."""

    def __init__(self, block: nn.Module, length: int) -> None:
        if not isinstance(block, ResidualAttentionBlock):
            raise UserError("captioner: open_clip's custom attention blocks are not supported for writing captions")
        self.block, self.length = block, length
        self.heads: int = block.attn.num_heads
        self.cache = torch.empty(0)

    def __call__(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """``x [n, width]`` at ``position``."""
        attn = self.block.attn
        n, width = x.shape
        qkv = F.linear(self.block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        query, key, value = qkv.view(n, 3, self.heads, 1, width // self.heads).unbind(1)
        if position == 0:
            self.cache = key.new_empty(2, n, self.heads, self.length, width // self.heads)
        self.cache[0, :, :, position : position + 1] = key
        self.cache[1, :, :, position : position + 1] = value
        keys, values = self.cache[:, :, :, : position + 1]
        return _rest(self.block, x, F.scaled_dot_product_attention(query, keys, values).reshape(n, width))

    def keep(self, rows: torch.Tensor) -> None:
        """Keep the cached keys and values of ``rows`` only."""
        self.cache = self.cache[:, rows]


class CrossAttention:
    """A cross-attention block that projects the keys and values of an image once for all its captions."""

    def __init__(self, block: ResidualAttentionBlock, images: torch.Tensor) -> None:
        self.block = block
        self.heads: int = block.attn.num_heads
        i, tokens, width = images.shape
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        both = F.linear(block.ln_1_kv(images), weight[width:], bias[width:])
        heads = both.view(i, tokens, 2, self.heads, width // self.heads)
        self.keys, self.values = heads.permute(2, 0, 3, 1, 4).contiguous()

    def __call__(self, x: torch.Tensor, image_of: torch.Tensor, seat: torch.Tensor, seats: int) -> torch.Tensor:
        """``x [n, width]``; row ``r`` is number ``seat[r]`` of at most ``seats`` of image ``image_of[r]``."""
        attn = self.block.attn
        width = x.shape[-1]
        asked = F.linear(self.block.ln_1(x), attn.in_proj_weight[:width], attn.in_proj_bias[:width])
        query = asked.new_zeros(len(self.keys), seats, width)
        query[image_of, seat] = asked
        query = query.view(len(self.keys), seats, self.heads, -1).transpose(1, 2)
        answer = F.scaled_dot_product_attention(query, self.keys, self.values).transpose(1, 2).flatten(2)
        return _rest(self.block, x, answer[image_of, seat])

    def keep(self, images: torch.Tensor) -> None:
        """Keep the keys and values of ``images`` only."""
        if len(images) < len(self.keys):
            self.keys, self.values = self.keys[images], self.values[images]


def _rest(block: ResidualAttentionBlock, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    x = x + block.ls_1(block.attn.out_proj(attended))
    added: torch.Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return added
