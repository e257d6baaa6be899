import pytest
import torch

from mobileclip2.models.build import from_config
from mobileclip2.models.interpolate import interpolated
from mobileclip2.training.trainer import train_mode
from tests.mobileclip2.stages.small_wise_ft import PUPIL


@pytest.fixture(scope="module")
def states():
    """Return state dicts of a model with batch norm before and after a few steps."""
    torch.manual_seed(0)
    model = from_config({"model_cfg": PUPIL}).model
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_mode(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model.encode_image(torch.randn(8, 3, 32, 32)).square().sum().backward()
        optimizer.step()
    return start, model.state_dict()


def test_the_ends_are_the_models_themselves_bit_for_bit(states):
    start, end = states
    start = start | {"visual.trunk.head.fc.bias": torch.tensor([-0.0, 1e-45])}
    end = end | {"visual.trunk.head.fc.bias": torch.tensor([1.0, 3e38])}
    for weight, expected in ((0, start), (0.0, start), (1, end), (1.0, end)):
        found = interpolated(start, end, weight)
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def test_parameters_and_statistics_lie_between_and_counts_do_not(states):
    start, end = states
    middle = interpolated(start, end, 0.25)
    for kind in ("running_mean", "running_var", "weight"):
        names = [name for name in start if name.endswith(kind) and not torch.equal(start[name], end[name])]
        assert names
        for name in names:
            expected = 0.75 * start[name].double() + 0.25 * end[name].double()
            assert torch.allclose(middle[name].double(), expected, rtol=1e-6, atol=1e-7)
    counts = [name for name in start if name.endswith("num_batches_tracked")]
    assert counts
    for name in counts:
        assert middle[name].dtype == torch.int64 and middle[name] == end[name] == 3
