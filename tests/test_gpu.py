"""Run the checks of ``on_gpu`` on a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.on_gpu import CHECKS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_gpu(name: str) -> None:
    assert CHECKS[name](torch.device("cuda"))
