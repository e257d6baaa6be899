from types import SimpleNamespace

import pytest
import torch

from mobileclip2.evaluation.latency import CALLS, _on_gpu, machine, measure_latency
from mobileclip2.models.reparameterize import reparameterize
from tests.mobileclip2.evaluation.small_sets import build_model

CPU = torch.device("cpu")


def test_both_towers_are_measured_separately():
    model = build_model()
    found = measure_latency(model, CPU, batch=4, seconds=0.05)
    for tower in (found.image, found.text):
        assert 0 < tower.p50 <= tower.p90 <= tower.p99
        assert CALLS[0] <= tower.calls <= CALLS[1]
        assert tower.throughput > 0
    total = sum(parameter.numel() for parameter in model.model.parameters())
    assert found.image.parameters + found.text.parameters == total
    assert found.image.parameters == sum(parameter.numel() for parameter in model.model.visual.parameters())
    assert found.milliseconds == found.image.p50 + found.text.p50
    assert found.machine == machine(CPU) and torch.__version__ in found.machine and "thread" in found.machine


def test_latency_excludes_a_slow_first_call(monkeypatch):
    """Use encoders that advance a fake clock. Their first call is slow, as in a compiled model."""
    model = build_model()
    calls = {"image": 0, "text": 0}
    now = [0.0]

    def served(module):
        fused = reparameterize(module)
        for name, milliseconds in (("image", 4), ("text", 1)):

            def encode(inputs, name=name, milliseconds=milliseconds):
                calls[name] += 1
                now[0] += (100 if calls[name] == 1 else milliseconds * len(inputs)) / 1000

            setattr(fused, f"encode_{name}", encode)
        return fused

    monkeypatch.setattr("mobileclip2.evaluation.latency.reparameterize", served)
    monkeypatch.setattr("mobileclip2.evaluation.latency.time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = measure_latency(model, CPU, batch=2, seconds=0.1)
    assert found.image.p50 == pytest.approx(4) and found.image.p99 == pytest.approx(4)
    assert found.text.p50 == pytest.approx(1)
    assert found.image.throughput == pytest.approx(250)


def test_gpu_latency_is_the_time_between_two_events(monkeypatch):
    """Record the calls to CUDA and their order, without a GPU."""
    said = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            said.append(self)

        def synchronize(self):
            said.append("synchronized")

        def elapsed_time(self, end):
            assert said == [self, "called", end, "synchronized"] and end is not self
            return 7.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert _on_gpu(lambda: said.append("called")) == 7.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    device = torch.device("cuda")
    found = measure_latency(build_model(), device, batch=4, seconds=0.05)
    assert torch.cuda.get_device_name() in found.machine and 0 < found.image.p50 < 1000
