"""Work around oneDNN's out-of-bounds gradients of strided 1x1 convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class StridedPointwise(nn.Conv2d):
    """A strided 1x1 convolution, computed as a dense convolution over every ``stride``-th pixel.

    It has the same parameters and names as :class:`torch.nn.Conv2d`, and the same results up to rounding.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``[b, in_channels, h, w]``."""
        down, across = self.stride
        return F.conv2d(input[..., ::down, ::across], self.weight, self.bias)


def replace_strided_pointwise(model: nn.Module) -> None:
    """Replace, in place, each convolution of ``model`` whose weight gradient corrupts memory on a CPU.

    oneDNN computes the weight gradient of a strided 1x1 convolution over channels-last images. It writes past its buffer if
    the input has more than one channel and fewer than a vector holds: 8 with AVX2, 16 with AVX-512 (torch 2.13 to 2.15). The
    process then crashes, hangs or goes on with wrong numbers. The scale branch of every MobileOne stem is such a
    convolution. Contiguous images also avoid the fault, but make a training step of FastViT 1.3 times slower with AVX2 and
    1.8 times slower with AVX-512.
    """
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == (1, 1)
            and max(module.stride) > 1
            and module.in_channels < 16
            and module.groups == 1
            and module.padding in ((0, 0), "valid")
        ):
            module.__class__ = StridedPointwise
