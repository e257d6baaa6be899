"""CoCa captioners (Yu et al., arXiv 2205.01917): models of open_clip, and a small model on a frozen trunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from open_clip.coca_model import CoCa
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import AttentionalPooler, LayerNorm
from torch import nn

from mobileclip2.captioners.vocabulary import ShortTokenizer
from mobileclip2.config.captioner import CoCaConfig
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.errors import UserError
from mobileclip2.models.build import initialize_decoder
from mobileclip2.models.efficientnet_lite import efficientnet_lite_state
from mobileclip2.models.image_text import ImageText


def coca_of(captioner: ImageText) -> tuple[CoCa, SimpleTokenizer]:
    """Return the CoCa model and the CLIP tokenizer of ``captioner``.

    Raises:
        UserError: the model or the tokenizer has another type.
    """
    model, tokenizer = captioner.model, captioner.tokenize
    if not isinstance(model, CoCa) or not isinstance(tokenizer, SimpleTokenizer):
        raise UserError(
            f"captioner: {type(model).__name__} with {type(tokenizer).__name__} cannot generate captions; "
            "use a CoCa model of open_clip with CLIP's tokenizer, such as coca_ViT-L-14"
        )
    return model, tokenizer


def small_coca(
    config: CoCaConfig, *, trunk_state: Mapping[str, torch.Tensor] | None = None, seed: int = 0
) -> ImageText:
    """Build the small CoCa of ``config`` with the published weights ``trunk_state`` of its frozen trunk.

    Other weights are initialized from ``seed``. The ``state_dict`` includes the trunk, so a saved model needs no
    ``trunk_state``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = config.model_dump(include={"context_length", "width", "heads", "layers"})
        text["vocab_size"] = config.vocabulary
        model = CoCa(
            embed_dim=config.width,
            text_cfg={**text, "embed_cls": True, "output_tokens": True},
            multimodal_cfg=text,
            # CoCa requires an image tower, which is replaced below
            vision_cfg={"image_size": 32, "patch_size": 32, "width": 64, "layers": 0},
        )
        initialize_decoder(model)
        model.visual = FrozenTrunkTower(config)
    if trunk_state is not None:
        network = model.visual.trunk.network
        network.load_state_dict(efficientnet_lite_state(trunk_state, network))
    return ImageText(
        model.eval(),
        ShortTokenizer(config.context_length, config.vocabulary),
        Preprocess(config.image_size, mean=config.mean, std=config.std),
        config.width,
        {"small_coca": config.model_dump(mode="json")},
    )


def trunk_features(model: CoCa, images: torch.Tensor) -> torch.Tensor:
    """Compute trunk features ``[b, C]``, which a small CoCa accepts instead of ``images [b, 3, H, W]``."""
    features: torch.Tensor = model.visual.trunk(images)
    return features


class FrozenTrunkTower(nn.Module):
    """Image tower of the small CoCa: each image token is a linear projection of the frozen trunk's pooled feature.

    Tokens from the pooled feature (as in ClipCap, Mokady et al., arXiv 2111.09734) generalize better than cells of the
    feature map if there are only thousands of training images.
    """

    def __init__(self, config: CoCaConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config.trunk)
        self.ln_pre = LayerNorm(self.trunk.channels)
        self.drop = nn.Dropout(config.dropout)
        self.proj = nn.Linear(self.trunk.channels, config.tokens * config.width)
        self.pool = AttentionalPooler(config.width, config.width, n_head=config.heads, n_queries=1)
        self.ln_post = LayerNorm(config.width)
        self.tokens = config.tokens

    def set_grad_checkpointing(self, enable: bool = True, impl: str = "inline") -> None:
        """Do nothing, because the trunk stores no activations and the rest is one layer. open_clip 4 also gives ``impl``."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latent ``[b, width]`` and the image tokens ``[b, tokens, width]``.

        ``x`` is images ``[b, 3, H, W]`` or trunk features ``[b, C]``.
        """
        features = self.trunk(x) if x.ndim == 4 else x
        tokens = self.proj(self.drop(self.ln_pre(features))).unflatten(-1, (self.tokens, -1))
        return self.ln_post(self.pool(tokens)[:, 0]), tokens


class Trunk(nn.Module):
    """A frozen timm network that maps images ``[b, 3, H, W]`` to pooled features ``[b, C]``.

    It always stays in evaluation mode, so features of training images can be cached.
    """

    network: Any

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = timm.create_model(name, pretrained=False, num_classes=0).requires_grad_(False)
        self.channels: int = self.network.num_features
        self.train(False)

    def train(self, mode: bool = True) -> Trunk:
        """Stay in evaluation mode and ignore ``mode``."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the pooled feature ``[b, C]`` of images ``[b, 3, H, W]``."""
        features: torch.Tensor = self.network(images)
        return features
