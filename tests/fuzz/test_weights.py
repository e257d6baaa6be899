"""Weight files and checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from mobileclip2.models.checkpoint import read_state
from mobileclip2.training.checkpoint import SLOTS, Checkpoints
from tests.fuzz.harness import CORPUS, fuzz


def test_weights(tmp_path: Path) -> None:
    path = tmp_path / "fuzzed.pt"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_state(path)

    fuzz("weights", read)


def test_checkpoint(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoints = Checkpoints(tmp_path, model, optimizer, fingerprint="f", total_steps=2)
    (corpus,) = (CORPUS / "checkpoint").iterdir()
    intact = corpus.read_bytes()

    def read(data: bytes) -> None:
        (tmp_path / SLOTS[0]).write_bytes(data)
        found = checkpoints.newest(at_most=2, metrics=lambda _: "m")
        assert (found is not None) == (data == intact)

    fuzz("checkpoint", read)
