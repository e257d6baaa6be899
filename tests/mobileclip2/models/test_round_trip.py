"""Every tokenizer class and tower family of open_clip is built, stored and read back without a cache or a network."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from mobileclip2.config.model import Model
from mobileclip2.models.build import build, save
from tests.mobileclip2.models.small_towers import FAMILIES, write

TEXTS = ["a photo of a cat", "the Red dog, on the hill", "x", ""]

READ = """
import json, sys
from pathlib import Path
import open_clip, torch
from torch.nn import functional as F
from mobileclip2.models.build import CONFIG, WEIGHTS, load
from mobileclip2.models.hub import TOKENIZER_FILES

texts = json.loads(sys.argv[2])
for folder in Path(sys.argv[1]).iterdir():
    images = torch.load(folder / "images.pt")
    stored = folder / "stored"
    ours = load(stored / CONFIG, stored / WEIGHTS, [path for path in stored.iterdir() if path.name in TOKENIZER_FILES])
    found = {"images": ours.embed_images(images), "texts": ours.embed_texts(texts), "tokens": ours.tokenize(texts)}
    name, text = f"local-dir:{stored}", json.loads((stored / CONFIG).read_text())["model_cfg"]["text_cfg"]
    # the name of a text tower of transformers is a repository of the hub, so its folder replaces it
    local = {**text, "hf_model_name": str(stored), "hf_model_pretrained": False}
    local = {"text_cfg": local} if "hf_model_name" in text else {}
    model, _, preprocess = open_clip.create_model_and_transforms(name, **local)
    model.eval()
    tokens = open_clip.get_tokenizer(name)(texts)
    with torch.inference_mode():
        found["plain images"] = F.normalize(model.encode_image(images), dim=-1)
        found["plain texts"] = F.normalize(model.encode_text(tokens), dim=-1)
    found["plain tokens"] = tokens
    torch.save(found, folder / "found.pt")
"""


def offline(home):
    """Return the environment of a process without a cache and without a network."""
    nowhere = "http://127.0.0.1:9"
    blocked = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), nowhere)
    return {**os.environ, **blocked, "NO_PROXY": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "HOME": str(home)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Build and store a model of every family, and read all of them in one new process."""
    base = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        folder, repository = base / "models" / family.replace(" ", "_"), base / "repositories" / family
        config = write(family, repository, str(repository))
        model = build(Model(config=config), seed=3)
        save(model, folder / "stored")
        images = torch.rand(2, 3, model.preprocess.size, model.preprocess.size)
        torch.save(images, folder / "images.pt")
        expected = {"images": model.embed_images(images), "texts": model.embed_texts(TEXTS)}
        torch.save({**expected, "tokens": model.tokenize(TEXTS)}, folder / "expected.pt")
    shutil.rmtree(base / "repositories")
    command = [sys.executable, "-c", READ, str(base / "models"), json.dumps(TEXTS)]
    done = subprocess.run(command, env=offline(base / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return base / "models"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stored_model_is_complete(models, family):
    folder = models / family.replace(" ", "_")
    expected, found = torch.load(folder / "expected.pt"), torch.load(folder / "found.pt")
    assert len({tuple(row) for row in expected["tokens"].tolist()}) == len(TEXTS)
    assert torch.equal(found["tokens"], expected["tokens"]) and torch.equal(found["plain tokens"], expected["tokens"])
    assert torch.equal(found["images"], expected["images"]) and torch.equal(found["texts"], expected["texts"])
    torch.testing.assert_close(found["plain images"], expected["images"])
    torch.testing.assert_close(found["plain texts"], expected["texts"])


def test_a_text_tower_published_in_bf16_is_loaded_in_fp32(tmp_path):
    config = write("mT5", tmp_path, str(tmp_path))
    tower = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**tower, "torch_dtype": "bfloat16"}))
    assert {tensor.dtype for tensor in build(Model(config=config)).model.text.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", [family for family, (_, tokenizer, _) in FAMILIES.items() if tokenizer])
def test_a_tokenizer_can_be_sent_to_a_loader_process(tmp_path, family):
    tokenize = build(Model(config=write(family, tmp_path / "files", str(tmp_path / "files")))).tokenize
    shutil.rmtree(tmp_path / "files")
    assert torch.equal(copy.deepcopy(tokenize)(TEXTS), tokenize(TEXTS))
