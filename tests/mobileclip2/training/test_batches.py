from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import UserError
from mobileclip2.training.batches import batches
from mobileclip2.training.distributed import World
from tests.mobileclip2.training.tiny_training import TinySource


class Numbers:
    """A source whose samples contain their epoch and index."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def order(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield chunks whose sizes are not multiples of the batch."""
        yield from np.split(np.random.default_rng(epoch).permutation(self.samples), [3, 3, 4])

    def sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        return {"place": torch.tensor([epoch, index])}


def places(
    samples: int = 10, rank: int = 0, size: int = 1, start: int = 0, workers: int = 0, steps: int = 5
) -> list[list[list[int]]]:
    settings = TrainSettings(steps=steps, batch=4, learning_rate=1.0, workers=workers)
    world = World(rank, size, torch.device("cpu"))
    return [batch["place"].tolist() for batch in batches(Numbers(samples), settings, world, start)]


def test_epochs_follow_their_order_and_drop_the_last_partial_batch() -> None:
    seen = places()
    orders = [np.random.default_rng(epoch).permutation(10) for epoch in range(3)]
    expected = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert seen == [[[e, int(i)] for i in orders[e][4 * n : 4 * n + 4]] for e, n in expected]


def test_a_later_start_continues_the_same_order() -> None:
    assert places(start=3) == places()[3:]


def test_workers_do_not_change_the_batches() -> None:
    assert places(workers=2, start=1) == places()[1:]


def test_processes_share_a_batch_in_order() -> None:
    shares = zip(places(rank=0, size=2), places(rank=1, size=2), strict=True)
    assert [first + second for first, second in shares] == places()


def test_loading_does_not_change_the_random_numbers_of_training() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    places(workers=1, steps=1)
    assert torch.equal(torch.rand(1), expected)


def test_a_batch_larger_than_the_data_is_rejected() -> None:
    with pytest.raises(UserError, match="batch: 4 exceeds the 3 samples"):
        places(samples=3)


def test_a_batch_that_is_not_divisible_is_rejected() -> None:
    with pytest.raises(UserError, match="batch: 4 is not divisible by 3 processes"):
        places(size=3)


def test_samples_are_stacked() -> None:
    settings = TrainSettings(steps=1, batch=4, learning_rate=1.0)
    batch = next(batches(TinySource(), settings, World(0, 1, torch.device("cpu")), 0))
    assert batch["image"].shape == (4, 3, 16, 16) and batch["text"].dtype == torch.int64
