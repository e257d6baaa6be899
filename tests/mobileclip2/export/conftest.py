from __future__ import annotations

import pytest
import torch

from mobileclip2.export.model import ImageTower, TextTower
from mobileclip2.export.parity import Inputs
from mobileclip2.models.build import from_config
from mobileclip2.models.image_text import ImageText
from tests.mobileclip2.models.test_build import TINY
from tests.tiny import CLASSES, draw, encode


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def image_text() -> ImageText:
    """Return a tiny model with random weights. Tests do not change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return from_config({"model_cfg": TINY})


@pytest.fixture(scope="session")
def towers(image_text: ImageText) -> tuple[ImageTower, TextTower]:
    return ImageTower(image_text.model), TextTower(image_text.model)


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def tokens(image_text: ImageText) -> torch.Tensor:
    return image_text.tokenize(["a cat", "two dogs", ""])


@pytest.fixture(scope="session")
def found() -> Inputs:
    """Return images and texts for a comparison."""
    images = [encode(draw(label, "export")) for label in CLASSES[:3]]
    return Inputs(images, CLASSES[:3], images)
