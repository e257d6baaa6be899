from __future__ import annotations

import pytest
import torch
from open_clip.coca_model import CoCa

from mobileclip2.captioners.coca import small_coca
from mobileclip2.captioners.vocabulary import ShortTokenizer
from mobileclip2.config.captioner import CoCaConfig
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.models.build import initialize_decoder
from mobileclip2.models.image_text import ImageText

VOCABULARY = 4096


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def talkative(captioner: ImageText) -> ImageText:
    """Spread the logits of an untrained model, so that captions differ and end at different lengths."""
    head = captioner.model.text_decoder
    with torch.no_grad():
        head.text_projection *= 2
        head.text_projection[:, VOCABULARY - 1] *= 6
    return captioner


@pytest.fixture(scope="session")
def open_clip_captioner() -> ImageText:
    """Build a narrow open_clip CoCa whose decoder is deeper than its text tower."""
    text = {"context_length": 20, "vocab_size": VOCABULARY, "width": 32, "heads": 2, "layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = CoCa(
            embed_dim=32,
            text_cfg={**text, "embed_cls": True, "output_tokens": True, "ls_init_value": 0.5},
            multimodal_cfg={**text, "layers": 3},
            vision_cfg={
                "image_size": 32,
                "patch_size": 16,
                "width": 64,
                "layers": 1,
                "attentional_pool": True,
                "attn_pooler_queries": 17,
                "output_tokens": True,
            },
        )
        initialize_decoder(model)
    tokenizer = ShortTokenizer(20, VOCABULARY)
    return talkative(ImageText(model.eval(), tokenizer, Preprocess(32), 32))


@pytest.fixture(scope="session")
def small_captioner() -> ImageText:
    config = CoCaConfig(image_size=32, width=32, heads=2, context_length=20, vocabulary=VOCABULARY)
    return talkative(small_coca(config, seed=5))


@pytest.fixture(params=["open_clip", "small"])
def captioner(request: pytest.FixtureRequest) -> ImageText:
    found: ImageText = request.getfixturevalue(f"{request.param}_captioner")
    return found


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 3
