"""Models with a MobileOne stem train on CPUs with every instruction set."""

import os

import open_clip
import pytest
import torch
from torch import nn

import mobileclip2.models.fastvit  # noqa: F401  # registers the trunk of the demo's students
from mobileclip2.config.training import TrainSettings
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.training.data import FeatureSource
from mobileclip2.training.objectives import Contrastive
from mobileclip2.training.strided_pointwise import StridedPointwise, replace_strided_pointwise
from mobileclip2.training.trainer import train
from tests.processes import run_process


class Pixels(FeatureSource):
    def prepare(self, images):
        return Preprocess(images.shape[1]).normalized(images)


def train_one_step(trunk, folder):
    folder.mkdir()
    os.dup2(os.open(folder / "onednn.log", os.O_CREAT | os.O_WRONLY), 1)
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(
        embed_dim=32,
        vision_cfg={"timm_model_name": trunk, "timm_pool": "avg", "timm_proj": "linear", "image_size": 128},
        text_cfg={"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    )
    images = torch.randint(0, 256, (4, 128, 128, 3), dtype=torch.uint8)
    source = Pixels(images, torch.randint(1, 64, (4, 8)), seed=0)
    settings = TrainSettings(steps=1, batch=4, learning_rate=1e-3)
    result = train(model, Contrastive(), source, settings, folder, fingerprint="f")
    assert 0 < result["loss"] < 10, result


@pytest.mark.slow
@pytest.mark.parametrize(("instructions", "used"), [("SSE41", "SSE4.1"), ("AVX2", "AVX2"), ("DEFAULT", "")])
@pytest.mark.parametrize("trunk", ["fastvit_nano", "fastvit_mci0"])
def test_students_train_with_every_instruction_set(trunk, instructions, used, tmp_path):
    """Without the replacement both trunks crash with AVX2, and the one of MobileCLIP2-S0 crashes with AVX-512."""
    onednn = {"ONEDNN_MAX_CPU_ISA": instructions, "ONEDNN_VERBOSE": "1"}
    assert run_process(train_one_step, trunk, tmp_path / "out", **onednn) == 0
    (line,) = [line for line in (tmp_path / "out" / "onednn.log").read_text().splitlines() if ",cpu,isa:" in line]
    assert used in line


@pytest.mark.parametrize("channels", [2, 3, 15])
@pytest.mark.parametrize("stride", [(2, 2), (3, 3), (1, 2)])
@pytest.mark.parametrize("side", [12, 13])
def test_a_replaced_convolution_gives_the_same_output(channels, stride, side):
    plain = nn.Conv2d(channels, 5, 1, stride=stride)
    replaced = nn.Sequential(nn.Conv2d(channels, 5, 1, stride=stride))
    replaced[0].load_state_dict(plain.state_dict())
    replace_strided_pointwise(replaced)
    assert type(replaced[0]) is StridedPointwise
    assert list(replaced[0].state_dict()) == list(plain.state_dict())
    images = torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(0))
    expected, found = plain(images), replaced(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    torch.testing.assert_close(replaced[0].weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(replaced[0].bias.grad, plain.bias.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 5, 1),
        nn.Conv2d(3, 5, 3, stride=2),
        nn.Conv2d(16, 5, 1, stride=2),
        nn.Conv2d(6, 4, 1, stride=2, groups=2),
        nn.Conv2d(3, 5, 1, stride=2, padding=1),
    ],
)
def test_other_convolutions_are_not_replaced(convolution):
    replace_strided_pointwise(model := nn.Sequential(convolution))
    assert type(model[0]) is nn.Conv2d
