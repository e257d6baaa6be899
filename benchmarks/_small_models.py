"""Small models of every kind in open_clip, and local copies of the repositories that they name.

A small model keeps the classes of the original: tower, pooling, projection, tokenizer and its options. It has fewer
and narrower layers and smaller input images. Repositories of the hub are folders in a cache. Their tokenizers have a
few hundred tokens.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SMALL_TRUNKS = {
    r"convnext_": "test_convnext",
    r"eva": "eva02_tiny_patch14_224",
    r"fastvit_mci": "fastvit_mci0",
    r"swin_": "swin_tiny_patch4_window7_224",
    r"vit_\w+_siglip_": "test_vit3",
    r"vit_\w+_clip_": "test_vit",
    r"vit_base_mci_224": "vit_base_mci_224",
    r"vit_medium_patch16_gap_256": "test_vit2",
    r"vit_relpos_": "vit_relpos_small_patch16_224",
    r"vit_pe_core_": "vit_pe_core_tiny_patch16_384",
    r"vitamin_": "vitamin_small_224",
}
"""Small timm models by the name of the model that they replace."""

REVISION = "0" * 40
VOCABULARY = 512
WORDS = ("photo", "dog", "red", "apple", "table", "the", "of", "on", "and")


def small_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return an open_clip configuration of the same kind as ``config`` with a few million parameters."""
    small = copy.deepcopy(config)
    vision, text = small["vision_cfg"], small["text_cfg"]
    # keep the width of the output if the trunk decides it
    if vision.get("timm_proj") != "none":
        small["embed_dim"] = 64
    if name := vision.get("timm_model_name"):
        (trunk,) = {each for pattern, each in SMALL_TRUNKS.items() if re.match(pattern, name)}
        vision.update(timm_model_name=trunk, image_size=_native_size(trunk))
        if vision.get("timm_proj") == "none":
            small["embed_dim"] = 96
    elif isinstance(vision.get("layers"), list):
        vision.update(layers=[1, 1, 1, 1], width=16, image_size=64)
    else:
        vision.update(layers=2, width=64, image_size=4 * vision.get("patch_size", 16), mlp_ratio=2.0)
        if "head_width" in vision:
            vision["head_width"] = 32
        if vision.get("attentional_pool"):
            vision["attn_pooler_heads"] = 2
    if "hf_model_name" not in text:
        text.update(width=64, heads=2, layers=2)
        if text.get("hf_tokenizer_name"):
            text["vocab_size"] = VOCABULARY
    if decoder := small.get("multimodal_cfg"):
        decoder.update(width=64, heads=2, layers=1, attn_pooler_heads=2)
        if "dim_head" in decoder:
            decoder["dim_head"] = 32
    return small


def _native_size(trunk: str) -> int:
    import timm

    config = timm.get_pretrained_cfg(trunk)
    assert config is not None
    return int(config.input_size[-1])


def write_cache(folder: Path, architectures: Iterable[str]) -> None:
    """Write the repositories of tokenizers and text towers that architectures name into ``folder``, a cache of the hub."""
    from open_clip.factory import get_model_config

    for name in architectures:
        text = get_model_config(name)["text_cfg"]
        for repository in {text.get("hf_tokenizer_name"), text.get("hf_model_name")} - {None}:
            snapshot = snapshot_folder(folder, repository)
            if not snapshot.exists():
                small_tokenizer(repository).save_pretrained(snapshot)
                if "hf_model_name" in text:
                    small_text_config(repository).save_pretrained(snapshot)
                else:
                    _mark_absent(folder, repository, "config.json")


def _mark_absent(cache: Path, repository: str, name: str) -> None:
    """Record that a repository does not have a file, as the hub's library does."""
    absent = snapshot_folder(cache, repository).parents[1] / ".no_exist" / REVISION / name
    absent.parent.mkdir(parents=True, exist_ok=True)
    absent.touch()


def on_meta(config: dict[str, Any]) -> Any:
    """Build an architecture at full size on the meta device, which computes shapes and allocates no memory.

    A text tower of transformers has the size of its repository in the cache.
    """
    import torch
    from open_clip import CLIP, CoCa, CustomTextCLIP

    config = copy.deepcopy(config)
    of_transformers = "hf_model_name" in config["text_cfg"]
    custom = config.pop("custom_text", False) or of_transformers
    if of_transformers:
        config["text_cfg"]["hf_model_pretrained"] = False
    with torch.device("meta"):
        return (CoCa if "multimodal_cfg" in config else CustomTextCLIP if custom else CLIP)(**config)


def use_small_config(name: str) -> dict[str, Any]:
    """Replace the architecture ``name`` by a small one, in the tables of open_clip and in ours."""
    from open_clip.factory import _MODEL_CONFIGS

    from mobileclip2.config import published

    replaced, small = name, small_config(_MODEL_CONFIGS[name])
    original = published.architecture

    def architecture(name: str) -> dict[str, Any]:
        return copy.deepcopy(small) if name == replaced else original(name)

    _MODEL_CONFIGS[name] = small
    published.architecture = architecture
    return small


def publish(cache: Path, name: str, tag: str, weights: Path) -> None:
    """Use a file as the published weights of a tag, in the cache of the hub or at their URL."""
    from mobileclip2.config import published

    entry = published.pretrained(name)[tag]
    repository, _, file = entry.get("hf_hub", "").rpartition("/")
    if not repository:
        entry["file"] = str(weights)
        return
    folder = snapshot_folder(cache, repository)
    folder.mkdir(parents=True, exist_ok=True)
    stem = file.rpartition(".")[0] or "open_clip_model"
    link = folder / f"{stem}.safetensors"
    link.unlink(missing_ok=True)
    link.symlink_to(weights)


def snapshot_folder(cache: Path, repository: str, commit: str = REVISION) -> Path:
    """Return the folder of a commit's files in a cache of the hub, and point the branch ``main`` to it."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    return root / "snapshots" / commit


def small_tokenizer(repository: str) -> Any:
    """Return a tokenizer of the class that the repository has."""
    import transformers

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list(".,!?'0123456789")
    kind = repository.partition("/")[2] or repository
    if kind.startswith("bert"):
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + each for each in letters), *WORDS]
        return transformers.BertTokenizer(vocab=_numbered(tokens))
    if kind.startswith("roberta"):
        from tokenizers.pre_tokenizers import ByteLevel

        tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
        return transformers.RobertaTokenizer(vocab=_numbered(tokens), merges=[])
    pieces = ["▁", *letters, *("▁" + each for each in [*letters, *WORDS])]
    if kind.startswith("xlm"):
        return transformers.XLMRobertaTokenizer(vocab=_scored(["<s>", "<pad>", "</s>", "<unk>", *pieces, "<mask>"]))
    if kind.startswith("nllb"):
        return transformers.NllbTokenizer(vocab=_numbered(["<s>", "<pad>", "</s>", "<unk>", *pieces]), merges=[])
    if "SigLIP2" in kind:
        tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *pieces]
        ends: dict[str, Any] = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
        return transformers.GemmaTokenizer(vocab=_numbered(tokens), merges=[], **ends)
    if kind.startswith("mt5") or "SigLIP" in kind:
        return transformers.T5Tokenizer(vocab=_scored(["<pad>", "</s>", "<unk>", *pieces]), extra_ids=0)
    raise ValueError(f"no tokenizer stands for {repository}")


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def _scored(tokens: list[str]) -> list[tuple[str, float]]:
    return [(token, -float(len(token) == 1)) for token in dict.fromkeys(tokens)]


def small_text_config(repository: str) -> Any:
    """Return the transformers configuration of a small text encoder of the repository's family."""
    import transformers

    kind = repository.partition("/")[2] or repository
    encoder: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 130,
    }
    if kind.startswith("xlm"):
        return transformers.XLMRobertaConfig(**encoder)
    if kind.startswith("roberta"):
        return transformers.RobertaConfig(**encoder)
    if kind.startswith("mt5"):
        return transformers.MT5Config(vocab_size=VOCABULARY, d_model=64, d_kv=32, d_ff=128, num_layers=2, num_heads=2)
    if kind.startswith("nllb"):
        layers: dict[str, Any] = {
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
        }
        return transformers.M2M100Config(
            vocab_size=VOCABULARY, d_model=64, encoder_attention_heads=2, decoder_attention_heads=2, **layers
        )
    raise ValueError(f"no text encoder stands for {repository}")
