import pytest
import torch
from open_clip.factory import get_model_config
from timm.models.fastvit import LayerScale2d
from torch import nn
from torch.nn import functional as F

from mobileclip2.config.profile import load as load_profile
from mobileclip2.models.build import from_config
from mobileclip2.models.reparameterize import reparameterize
from pipelines.profiles import PROFILES
from tests.mobileclip2.models.test_build import TINY


def demo() -> dict:
    model = load_profile(PROFILES / "demo.yaml").students[0].model
    assert model and model.config
    return model.config


CONFIGS = {"demo": demo, "MobileCLIP2-S0": lambda: get_model_config("MobileCLIP2-S0")}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_fused_model_gives_the_same_features_with_fewer_layers(name):
    torch.manual_seed(0)
    model = from_config({"model_cfg": CONFIGS[name]()})
    _trained_statistics(model.model)
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    fused = reparameterize(model.model)
    size = model.preprocess.size
    images = F.interpolate(torch.randn(4, 3, 8, 8), (size, size), mode="bicubic")
    texts = model.tokenize(["a cat", "two dogs on a lawn"])
    with torch.inference_mode():
        for tower, batch in (("encode_image", images), ("encode_text", texts)):
            trained, served = (F.normalize(getattr(each, tower)(batch), dim=-1) for each in (model.model, fused))
            torch.testing.assert_close(served, trained, atol=1e-6, rtol=0)
            assert (trained - trained[0]).abs().max() > 1e-4, "inputs that the model cannot tell apart show nothing"

    def norms(module):
        return sum(isinstance(each, nn.BatchNorm2d) for each in module.modules())

    assert norms(fused) < norms(model.model) / 2
    assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in model.model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items()), (
        "a copy was asked for"
    )


def test_a_model_without_branches_is_only_copied():
    model = from_config({"model_cfg": TINY}).model
    fused = reparameterize(model.train())
    assert fused is not model and not fused.training and model.training
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in fused.state_dict().items())


def _trained_statistics(model: nn.Module) -> None:
    """Randomize norms and scales, because initial values are nearly neutral and hide a wrong fusion."""
    for module in model.modules():
        if isinstance(module, LayerScale2d):
            nn.init.uniform_(module.gamma, 0.2, 0.6)
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                nn.init.uniform_(tensor, low, high)  # type: ignore[arg-type]
