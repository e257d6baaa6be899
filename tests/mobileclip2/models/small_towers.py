"""Write small random models and tokenizers of every tower family and tokenizer class of open_clip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["a", "cat", "dog", "on", "the", "red", "green", "square", "photo", "of", "hill"]
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
CONTEXT = 12

VIT = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}
TRANSFORMER = {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def wordpiece(folder: Path) -> int:
    """Write a BERT tokenizer as a vocabulary file only, like bert-base-uncased. Return the vocabulary size."""
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    entries = list(dict.fromkeys(entries))
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n")
    _configure(folder, {"do_lower_case": True, "model_max_length": 64}, {"model_type": "bert"})
    return len(entries)


def byte_level(folder: Path) -> int:
    """Write a RoBERTa tokenizer as ``vocab.json`` and ``merges.txt``. Only ``config.json`` names its class."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t"), ("d", "o"), ("do", "g")]
    entries = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, *("".join(pair) for pair in merges)]
    (folder / "vocab.json").write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{one} {two}\n" for one, two in merges))
    _configure(folder, {"model_max_length": 64}, {"model_type": "roberta"})
    return len(entries)


def unigram(folder: Path, cls: str, special: list[str], after: str, **settings: Any) -> int:
    """Write a sentencepiece-like tokenizer as ``tokenizer.json``. ``after`` is the template of special tokens."""
    pieces = [(token, 0.0) for token in special] + [(f"\u2581{word}", -2.0) for word in WORDS]
    pieces += [("\u2581", -3.0)] + [(letter, -5.0) for letter in LETTERS if letter != "a"] + [("a", -5.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index("<unk>")))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=after, special_tokens=[(token, special.index(token)) for token in special if token in after.split()]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", **settings}
    _configure(folder, {"tokenizer_class": cls, **names}, None)
    return len(pieces)


def xlm_roberta(folder: Path) -> int:
    """Write a tokenizer of XLM-RoBERTa."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    more = {"bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    return unigram(folder, "XLMRobertaTokenizer", special, "<s> $A </s>", **more)


def t5(folder: Path) -> int:
    """Write a T5 tokenizer, which SigLIP and mT5 use."""
    return unigram(folder, "T5Tokenizer", ["<pad>", "</s>", "<unk>"], "$A </s>", extra_ids=0)


def gemma(folder: Path) -> int:
    """Write a tokenizer like that of SigLIP 2."""
    special = ["<pad>", "</s>", "<s>", "<unk>"]
    return unigram(folder, "PreTrainedTokenizerFast", special, "$A </s>", padding_side="right", bos_token="<s>")


def nllb(folder: Path) -> int:
    """Write an NLLB tokenizer, which puts the language token first."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "eng_Latn", "<mask>"]
    return unigram(folder, "PreTrainedTokenizerFast", special, "eng_Latn $A </s>", bos_token="<s>")


def _configure(folder: Path, tokenizer: dict[str, Any], config: dict[str, Any] | None) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    if config:
        (folder / "config.json").write_text(json.dumps(config))


def text_tower(kind: str, size: int) -> dict[str, Any]:
    """Return the ``config.json`` of a small text tower of transformers."""
    bert = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    t5_sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    m2m = {
        f"{part}_{name}": number
        for part in ("encoder", "decoder")
        for name, number in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
    }
    sizes = {
        "roberta": {**bert, "max_position_embeddings": 64, "pad_token_id": 1},
        "xlm-roberta": {**bert, "max_position_embeddings": 64, "pad_token_id": 1},
        "mt5": {**t5_sizes, "pad_token_id": 0},
        "m2m_100": {**m2m, "d_model": 16, "max_position_embeddings": 64, "pad_token_id": 1},
    }
    return {"model_type": kind, "vocab_size": size, **sizes[kind]}


def timm(name: str, **more: Any) -> dict[str, Any]:
    """Return the ``vision_cfg`` of a tower of timm."""
    return {"timm_model_name": name, "timm_pool": "", "timm_proj": "linear", "image_size": 32, **more}


Family = tuple[dict[str, Any], Callable[[Path], int] | None, str | None]
"""``model_cfg`` without vocabulary sizes, function that writes the tokenizer, kind of a transformers text tower"""


def _clip(vision: dict[str, Any] = VIT, text: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {**TRANSFORMER, **(text or {})}, **more}


SIGLIP = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "tokenizer_kwargs": {"clean": "canonicalize"}}
MULTIMODAL = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
COCA_VISION = {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
HF = {"context_length": CONTEXT, "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}

FAMILIES: dict[str, Family] = {
    "CLIP ViT": (_clip(), None, None),
    "CLIP QuickGELU": (_clip(quick_gelu=True), None, None),
    "CLIP ResNet": (_clip({"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}), None, None),
    "custom text": (_clip(custom_text=True), None, None),
    "MobileCLIP2": (_clip(timm("fastvit_mci0", timm_pool="avg", timm_proj=None), custom_text=True), None, None),
    "ConvNeXt": (_clip(timm("convnext_atto")), None, None),
    "EVA": (_clip(timm("eva02_tiny_patch14_224", image_size=224), custom_text=True), None, None),
    "CoCa": (
        _clip(COCA_VISION, {"embed_cls": True, "output_tokens": True}, multimodal_cfg=MULTIMODAL, custom_text=True),
        None,
        None,
    ),
    "SigLIP": (_clip(text=SIGLIP, init_logit_bias=-10, custom_text=True), t5, None),
    "SigLIP 2": (_clip(text=SIGLIP, init_logit_bias=-10, custom_text=True), gemma, None),
    "CLIPA": (
        _clip(text={"pool_type": "last", "no_causal_mask": True, "tokenizer_kwargs": {"strip_sep_token": True}}),
        wordpiece,
        None,
    ),
    "MetaCLIP 2": (_clip(text={"pool_type": "eos", "eos_id": 2}, quick_gelu=True), xlm_roberta, None),
    "RoBERTa": ({"embed_dim": 8, "vision_cfg": VIT, "text_cfg": HF}, byte_level, "roberta"),
    "XLM-RoBERTa": ({"embed_dim": 8, "vision_cfg": VIT, "text_cfg": HF}, xlm_roberta, "xlm-roberta"),
    "mT5": ({"embed_dim": 8, "vision_cfg": VIT, "text_cfg": {**HF, "hf_proj_type": "linear"}}, t5, "mt5"),
    "NLLB": (
        {"embed_dim": 8, "vision_cfg": VIT, "text_cfg": {**HF, "hf_pooler_type": "cls_pooler"}},
        nllb,
        "m2m_100",
    ),
}


def write(family: str, repository: Path, name: str) -> dict[str, Any]:
    """Write the files of a tokenizer and of a text tower into ``repository``, and return the ``model_cfg``.

    The configuration refers to the files as ``name``, a repository of the hub or a folder.
    """
    config, tokenizer, tower = FAMILIES[family]
    text = dict(config["text_cfg"])
    repository.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        size = tokenizer(repository)
        text["hf_tokenizer_name"] = name
        if tower:
            text["hf_model_name"] = name
            (repository / "config.json").write_text(json.dumps(text_tower(tower, size)))
        else:
            text["vocab_size"] = size
    return {**config, "text_cfg": text}
