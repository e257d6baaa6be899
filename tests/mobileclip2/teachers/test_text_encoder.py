"""Test pooling and trimming. ``test_towers.py`` tests encoders of several families."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from torch import nn

from mobileclip2.errors import WeightsError
from mobileclip2.teachers.text_encoder import POOLING, Pooling, TextEncoder, TrimmedTokenizer, declared_pooling

TOKENS = torch.tensor([[2, 4, 0, 0], [6, 8, 10, 0]])


class Doubled(nn.Module):
    """Returns each token twice as its hidden state."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=input_ids[..., None].float().expand(-1, -1, 2))


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [3.0, 8.0]), ("cls", [2.0, 6.0])])
def test_padding_is_not_pooled(pooling: Pooling, expected: list[float]) -> None:
    encoder = TextEncoder(Doubled(), 2, 4, pooling, pad=0)
    assert encoder.features(TOKENS)[:, 0].tolist() == expected
    assert encoder(TOKENS).shape == (2, 4)


def test_columns_of_padding_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HFTokenizer, "__call__", lambda *_: TOKENS)
    tokenizer = TrimmedTokenizer.__new__(TrimmedTokenizer)
    tokenizer.tokenizer = SimpleNamespace(pad_token_id=0)
    assert tokenizer(["a", "b"]).tolist() == TOKENS[:, :3].tolist()


@pytest.mark.parametrize(
    ("values", "pooling"),
    [
        (None, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_the_pooling_is_that_of_sentence_transformers(tmp_path: Path, values: object, pooling: str) -> None:
    if values:
        (tmp_path / POOLING).parent.mkdir()
        (tmp_path / POOLING).write_text(json.dumps(values))
    assert declared_pooling(tmp_path) == pooling


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"pooling_mode_max_tokens": true}', "pooling_mode_max_tokens, which is neither mean nor cls"),
        (b'{"pooling_mode": 5}', "which is neither mean nor cls"),
        (b"{", "not valid JSON"),
        (b"[]", "not valid JSON"),
        (b'{"caf\xe9": 1}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_an_unsupported_or_invalid_pooling_is_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / POOLING).parent.mkdir()
    (tmp_path / POOLING).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"1_Pooling/config\.json: .*{message}"):
        declared_pooling(tmp_path)
