from __future__ import annotations

import pytest
import timm
import torch

from mobileclip2.errors import WeightsError
from mobileclip2.models.efficientnet_lite import efficientnet_lite_state

NAME = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """Return Lite0 weights under other names, like a checkpoint from another project."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = timm.create_model(NAME).state_dict()
    return {f"_tensor{place}": value for place, value in enumerate(state.values())}


@pytest.mark.parametrize("classes", [1000, 0])
def test_tensors_are_converted_in_their_order(published: dict[str, torch.Tensor], classes: int) -> None:
    model = timm.create_model(NAME, num_classes=classes)
    model.load_state_dict(efficientnet_lite_state(published, model))
    ours = model.state_dict()
    assert len(ours) == len(published) - (0 if classes else 2)
    for mine, theirs in zip(ours.values(), published.values(), strict=bool(classes)):
        assert torch.equal(mine, theirs)


def test_weights_of_another_size_are_refused(published: dict[str, torch.Tensor]) -> None:
    with pytest.raises(WeightsError, match="tensors where the timm model has"):
        efficientnet_lite_state(published, timm.create_model("tf_efficientnet_lite2"))


def test_a_tensor_of_another_shape_is_rejected(published: dict[str, torch.Tensor]) -> None:
    first = next(iter(published))
    with pytest.raises(WeightsError, match=rf"{first} is \[7\], timm's conv_stem.weight is \[32, 3, 3, 3\]"):
        efficientnet_lite_state({**published, first: torch.zeros(7)}, timm.create_model(NAME, num_classes=0))
