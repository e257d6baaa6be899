from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.captions import generate, supply_missing_classes
from mobileclip2.captioners.coca import coca_of, trunk_features
from mobileclip2.captioners.generate import Draw, sample
from mobileclip2.config.captioner import GenerationSettings
from mobileclip2.errors import UserError
from mobileclip2.models.image_text import ImageText

KEYS = ["a", "b", "c", "d", "e", "f"]
GREEDY = GenerationSettings(temperature=0, max_tokens=20, min_tokens=4)
SAMPLED = GenerationSettings(top_p=0.9, temperature=0.8, max_tokens=20, min_tokens=4, seed=7)


@torch.no_grad()
def plain(captioner: ImageText, image: torch.Tensor, draw: Draw, settings: GenerationSettings) -> list[int]:
    """Generate a caption without caches: run the full model and sort the full vocabulary for every token."""
    model, tokenizer = coca_of(captioner)
    uniforms = draw.uniforms(settings.seed, settings.max_tokens)
    seen = model(image[None])
    latent, embs = seen["image_features"], seen["image_embs"]
    text = [tokenizer.sot_token_id]
    while len(text) < settings.max_tokens - 1:
        out = model(None, torch.tensor([text]), image_latent=latent, image_embs=embs, output_labels=False)
        logits = out["logits"][0, -1]
        if len(text) < settings.min_tokens - 1:
            logits[tokenizer.eot_token_id] = -torch.inf
        if settings.temperature == 0:
            token = int(logits.argmax())
        else:
            order = logits.argsort(descending=True)
            probabilities = logits.softmax(-1)[order]
            mass, size = 0.0, 0
            while mass < settings.top_p:
                mass, size = mass + float(probabilities[size]), size + 1
            nucleus = (logits[order[:size]] / settings.temperature).softmax(-1).cumsum(-1)
            token = int(order[:size][int((nucleus <= uniforms[len(text)]).sum())])
        if token in (tokenizer.eot_token_id, model.pad_id):
            break
        text.append(token)
    return text[1:]


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_cached_generation_equals_generation_without_a_cache(
    captioner: ImageText, images: torch.Tensor, settings: GenerationSettings
) -> None:
    model, tokenizer = coca_of(captioner)
    found = generate(model, tokenizer, images, KEYS, [0, 1, 2], settings)
    expected = [
        [plain(captioner, image, Draw(0, key, c), settings) for c in range(3)]
        for image, key in zip(images, KEYS, strict=True)
    ]
    assert found == expected
    lengths = {len(tokens) for captions in found for tokens in captions}
    assert len(lengths) > 2, "all captions ended together: finished sequences leaving the batch was not exercised"


def test_captions_do_not_depend_on_other_samples_of_the_batch(captioner: ImageText, images: torch.Tensor) -> None:
    model, tokenizer = coca_of(captioner)
    together = dict(zip(KEYS, generate(model, tokenizer, images, KEYS, [0, 1], SAMPLED), strict=True))
    order = [4, 0, 2]
    fewer = generate(model, tokenizer, images[order], [KEYS[i] for i in order], [0, 1], SAMPLED)
    assert fewer == [together[KEYS[i]] for i in order]


def test_a_third_caption_can_be_generated_later(captioner: ImageText, images: torch.Tensor) -> None:
    model, tokenizer = coca_of(captioner)
    three = generate(model, tokenizer, images, KEYS, [0, 1, 2], SAMPLED)
    assert generate(model, tokenizer, images, KEYS, [2], SAMPLED) == [captions[2:] for captions in three]
    assert three[0][0] != three[0][1] != three[0][2]


def test_an_image_is_encoded_once_for_all_of_its_captions(captioner: ImageText, images: torch.Tensor) -> None:
    model, tokenizer = coca_of(captioner)
    encoded: list[int] = []
    hook = model.visual.register_forward_hook(lambda _m, inputs, _o: encoded.append(len(inputs[0])))
    generate(model, tokenizer, images, KEYS, [0, 1, 2, 3, 4], SAMPLED)
    hook.remove()
    assert encoded == [len(images)]


def test_cached_trunk_features_give_the_same_captions_as_images(
    small_captioner: ImageText, images: torch.Tensor
) -> None:
    model, tokenizer = coca_of(small_captioner)
    from_images = generate(model, tokenizer, images, KEYS, [0], SAMPLED)
    assert generate(model, tokenizer, trunk_features(model, images), KEYS, [0], SAMPLED) == from_images


def test_more_tokens_than_the_context_is_an_error(captioner: ImageText, images: torch.Tensor) -> None:
    model, tokenizer = coca_of(captioner)
    with pytest.raises(UserError, match=r"max_tokens 21 exceeds .* 20 tokens"):
        generate(model, tokenizer, images, KEYS, [0], GenerationSettings(max_tokens=21))


@given(
    scores=st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=300),
    top_p=st.floats(0.01, 1),
    uniform=st.floats(0, 1, exclude_max=True, width=32),
)
def test_sampled_tokens_lie_in_the_nucleus(scores: list[float], top_p: float, uniform: float) -> None:
    logits = torch.tensor([scores])
    token = int(sample(logits, torch.tensor([uniform]), top_p, 1.0))
    probabilities = logits[0].double().softmax(-1)
    more_probable = probabilities[probabilities > probabilities[token]].sum()
    assert more_probable < top_p + 1e-5


def test_sampling_follows_the_renormalized_nucleus() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    uniforms = torch.arange(1000) / 1000
    tokens = sample(logits.expand(1000, -1), uniforms, 0.9, 1.0)
    share = tokens.bincount(minlength=4) / 1000
    assert torch.allclose(share, torch.tensor([0.5, 0.3, 0.15, 0]) / 0.95, atol=2e-3)


@pytest.mark.parametrize("vocabulary", [100, 1000, 5000])
def test_sampling_covers_a_nucleus_wider_than_the_first_candidates(vocabulary: int) -> None:
    uniforms = (torch.arange(100) + 0.5) / 100
    tokens = sample(torch.zeros(100, vocabulary), uniforms, 1.0, 1.0)
    assert len(tokens.unique()) == 100
    assert tokens.max() >= 0.9 * vocabulary


def test_greedy_captions_equal_open_clip_token_for_token(open_clip_captioner: ImageText, images: torch.Tensor) -> None:
    model, tokenizer = coca_of(open_clip_captioner)
    supply_missing_classes()
    start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
    ids = {"sot_token_id": start, "eos_token_id": end, "pad_token_id": model.pad_id}
    theirs = model.generate(images, generation_type="top_k", top_k=1, seq_len=20, min_seq_len=5, **ids).tolist()
    settings = GREEDY.model_copy(update={"min_tokens": 6})
    ours = [line for (line,) in generate(model, tokenizer, images, KEYS, [0], settings)]
    assert ours == [line[1 : line.index(end)] for line in theirs]
    assert len({tuple(line) for line in ours}) > 1 and len({len(line) for line in ours}) > 1


def test_random_numbers_depend_only_on_key_caption_and_attempt() -> None:
    first = Draw(0, "k", 1).uniforms(0, 12)
    assert np.array_equal(first, Draw(5, "k", 1).uniforms(0, 30)[:12])
    assert ((first >= 0) & (first < 1)).all()
    others = [Draw(0, "l", 1), Draw(0, "k", 2), Draw(0, "k", 1, attempt=1), Draw(0, "k", 11)]
    firsts = {float(d.uniforms(0, 1)[0]) for d in others} | {float(first[0])}
    assert len({*firsts, float(Draw(0, "k", 1).uniforms(1, 1)[0])}) == len(others) + 2
