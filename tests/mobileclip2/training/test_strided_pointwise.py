"""Models with a MobileOne stem train on CPUs with every instruction set."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from mobileclip2.training.strided_pointwise import StridedPointwise, replace_strided_pointwise

ONE_STEP = """
import sys
from pathlib import Path

import open_clip
import torch

import mobileclip2.models.fastvit
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.training.data import FeatureSource
from mobileclip2.training.objectives import Contrastive
from mobileclip2.config.training import TrainSettings
from mobileclip2.training.trainer import train

NANO = {
    "embed_dim": 32,
    "vision_cfg": {"timm_model_name": "fastvit_nano", "timm_pool": "avg", "timm_proj": "linear", "image_size": 48},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


class Pixels(FeatureSource):
    def prepare(self, images):
        return Preprocess(images.shape[1]).normalized(images)


name, folder = sys.argv[1:]
torch.manual_seed(0)
torch.set_num_threads(1)
if name == "fastvit_nano":
    model, size, context = open_clip.CustomTextCLIP(**NANO), 48, 8
else:
    model, size, context = open_clip.create_model(name), 256, 77
images = torch.randint(0, 256, (4, size, size, 3), dtype=torch.uint8)
texts = torch.randint(1, 64, (4, context))
settings = TrainSettings(steps=1, batch=4, learning_rate=1e-3)
result = train(model, Contrastive(), Pixels(images, texts, seed=0), settings, Path(folder), fingerprint="f")
print(result.numbers["loss"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["SSE41", "AVX2", "DEFAULT"])
@pytest.mark.parametrize("name", ["fastvit_nano", "MobileCLIP2-S0"])
def test_a_student_trains_with_every_instruction_set(name, instructions, tmp_path):
    """Without the replacement both models crash with AVX2, and MobileCLIP2-S0 crashes with AVX-512."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    command = [sys.executable, "-c", ONE_STEP, name, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr[-2000:]}"
    assert 0 < float(done.stdout) < 10


@pytest.mark.parametrize("channels", [2, 3, 15])
@pytest.mark.parametrize("stride", [(2, 2), (3, 3), (1, 2)])
@pytest.mark.parametrize("side", [12, 13])
def test_a_replaced_convolution_computes_the_same(channels, stride, side):
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
def test_other_convolutions_stay_as_they_are(convolution):
    replace_strided_pointwise(model := nn.Sequential(convolution))
    assert type(model[0]) is nn.Conv2d
