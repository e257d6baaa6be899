import pytest
import torch

from mobileclip2.errors import UserError
from mobileclip2.models.build import from_config
from mobileclip2.models.device import choose_device, inference


def test_cpu_inference_is_fp32_and_bf16_changes_embeddings_little():
    torch.manual_seed(0)
    vision = {"image_size": 64, "patch_size": 16, "width": 64, "layers": 6, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 6}
    model = from_config({"model_cfg": {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}})
    images, texts = torch.randn(8, 3, 64, 64), ["a cat", "a dog on a hill"]
    plain = model.embed_images(images), model.embed_texts(texts)
    with inference(torch.device("cpu")):
        assert torch.equal(model.embed_images(images), plain[0])
    with torch.autocast("cpu", torch.bfloat16):
        halved = model.embed_images(images), model.embed_texts(texts)
    for before, after in zip(plain, halved, strict=True):
        assert not torch.equal(before, after)
        assert (before * after).sum(-1).min() > 0.9995


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x"])
def test_an_unknown_device_is_reported(name):
    with pytest.raises(UserError, match=f"torch has no device '{name}'; write 'auto'"):
        choose_device(name)
