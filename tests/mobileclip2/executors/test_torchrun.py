import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.models.build import WEIGHTS
from tests.tiny import make_tiny


@pytest.mark.slow
def test_torchrun_trains_the_weights_of_one_process(tmp_path):
    weights = []
    for processes in (1, 2):
        profile = make_tiny(tmp_path / str(processes))
        pipeline = Pipeline(load(profile))
        for group in pipeline.profile.group_names:
            pipeline.materialize("raw_shards", group)
        command = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        launched = [
            sys.executable,
            "-m",
            *command,
            "-m",
            "mobileclip2.executors.torchrun",
            str(profile),
            "student/plain",
        ]
        finished = subprocess.run(launched, capture_output=True, text=True, timeout=300, check=False)
        assert finished.returncode == 0, finished.stderr[-2000:]
        pipeline.forget()
        (read,) = pipeline.read("student/plain")
        assert read.verify(read.manifest) == []
        weights.append(load_file(read.fetch(WEIGHTS)))
    for name, alone in weights[0].items():
        torch.testing.assert_close(learned(name, weights[1][name]), learned(name, alone), atol=1e-4, rtol=1e-3)


def learned(name, weight):
    """Drop the key biases of attention. They do not affect softmax, so Adam amplifies the noise of their gradients."""
    if name.endswith("in_proj_bias"):
        queries, _, values = weight.chunk(3)
        return torch.cat([queries, values])
    return weight


def test_an_unknown_asset_lists_the_known_ones(tmp_path, capsys):
    from mobileclip2.executors.torchrun import main

    assert main(str(make_tiny(tmp_path)), "student/nobody") == 1
    assert "there is no asset 'student/nobody'; the profile has raw_shards" in capsys.readouterr().err
