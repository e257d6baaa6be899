"""Text encoders of transformers as frozen towers, with mean or class-token pooling."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from open_clip.tokenizer import HFTokenizer
from torch import nn

from mobileclip2.errors import WeightsError
from mobileclip2.models.checkpoint import check_finite, read_state
from mobileclip2.models.quiet import quiet

Pooling = Literal["mean", "cls"]
POOLING = "1_Pooling/config.json"
"""Pooling of a sentence-transformers model."""


class TextEncoder(nn.Module):
    """A frozen transformers encoder whose pooled features ``proj`` maps to ``embed_dim``."""

    def __init__(self, transformer: nn.Module, width: int, embed_dim: int, pooling: Pooling, pad: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.proj = nn.Linear(width, embed_dim, bias=False)
        self.pooling, self.pad = pooling, pad

    def features(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute pooled features ``[b, width]`` of ``tokens [b, context]``. Padding is masked."""
        mask = (tokens != self.pad).long()
        hidden: torch.Tensor = self.transformer(input_ids=tokens, attention_mask=mask).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(-1, keepdim=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed ``tokens [b, context]`` as ``[b, embed_dim]``."""
        projected: torch.Tensor = self.proj(self.features(tokens))
        return projected


class TrimmedTokenizer(HFTokenizer):  # type: ignore[misc]  # open_clip has no types
    """A tokenizer that drops columns with padding in every row. The attention mask hides them from the tower anyway."""

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Tokenize ``texts`` as int64 ``[len(texts), length of the longest]``."""
        tokens: torch.Tensor = super().__call__(list(texts))
        used = (tokens != self.tokenizer.pad_token_id).any(0)
        return tokens[:, : int(used.sum())]


def build_text_encoder(weights: Path, embed_dim: int, context: int, pooling: Pooling | None) -> TextEncoder:
    """Build a frozen encoder from a folder in transformers' layout.

    Args:
        weights: weight file. Its folder contains the configuration and the tokenizer.
        pooling: by default, that of sentence-transformers' ``1_Pooling/config.json``, or ``mean``.

    Raises:
        WeightsError: a file is missing or damaged, the weights do not fit the configuration, the tokenizer has no padding
            token, or the encoder has fewer positions than ``context``.
    """
    from transformers import AutoConfig, AutoTokenizer, logging
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    folder = weights.parent
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises exceptions of many types
        raise WeightsError(
            f"{folder}: transformers cannot read the configuration and the tokenizer of the text encoder "
            f"({_first_line(error)}); 'locked.text_weights' must be in a folder with config.json and the tokenizer's files"
        ) from error
    if tokenizer.pad_token_id is None:
        raise WeightsError(
            f"{folder}: the tokenizer has no padding token, so this is not a text encoder; choose one for 'locked.text_weights'"
        )
    positions = getattr(config, "max_position_embeddings", 0) or 0
    # RoBERTa's positions begin after the one of padding
    offset = config.pad_token_id + 1 if "roberta" in config.model_type or config.model_type == "mpnet" else 0
    if 0 < positions - offset < context:
        raise WeightsError(
            f"{folder}: the text encoder has {positions - offset} positions; set 'locked.context' to at most that"
        )
    kind = MODEL_MAPPING.get(type(config), None)
    if not isinstance(kind, type):
        raise WeightsError(
            f"{folder}: transformers has no encoder of the type '{config.model_type}'; choose another one"
        )
    has_pooling = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    logging.disable_progress_bar()
    try:
        with quiet():  # transformers warns about weights that the encoder does not use
            transformer, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=read_state(weights),
                output_loading_info=True,
                dtype="float32",
                **({"add_pooling_layer": False} if has_pooling else {}),
            )
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(
            f"{weights}: transformers cannot load these weights as a {config.model_type} ({_first_line(error)}); "
            "use the weights that belong to config.json in the same folder"
        ) from error
    problems = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    problems += [f"{each[0]} has another shape" for each in sorted(report["mismatched_keys"])]
    check_finite(transformer.state_dict(), str(weights))
    if config.is_encoder_decoder:
        transformer = transformer.get_encoder()
        problems = [each for each in problems if not each.startswith("decoder.")]
    if problems:
        raise WeightsError(
            f"{weights}: does not fit config.json in its folder: {'; '.join(problems[:3])}; use the weights of this encoder"
        )
    width = getattr(config, "hidden_size", None) or config.d_model
    encoder = TextEncoder(transformer, width, embed_dim, pooling or declared_pooling(folder), tokenizer.pad_token_id)
    transformer.requires_grad_(False)
    return encoder.eval()


def declared_pooling(folder: Path) -> Pooling:
    """Return the pooling that a sentence-transformers folder declares, or ``mean``.

    Raises:
        WeightsError: the model pools in another way, or the file is no JSON object.
    """
    file = folder / POOLING
    if not file.is_file():
        return "mean"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{file}: not valid JSON ({error}); download it again, or set 'locked.text_pooling'"
        ) from error
    modes = {name for name, value in values.items() if name.startswith("pooling_mode_") and value is True}
    if isinstance(values.get("pooling_mode"), str):
        modes = {values["pooling_mode"]}
    known: dict[str, Pooling] = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "mean": "mean",
        "cls": "cls",
    }
    if len(modes) != 1 or not modes <= set(known):
        raise WeightsError(
            f"{file}: the encoder was trained with the pooling {', '.join(sorted(modes)) or 'of no name'}, which is neither "
            "mean nor cls; set 'locked.text_pooling', or choose another encoder"
        )
    return known[modes.pop()]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
