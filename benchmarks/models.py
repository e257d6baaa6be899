"""Which of open_clip's architectures and published weights build, are stored, come back and preprocess as published.

An architecture is built at full size without memory for its weights, to count them. Then a model is stored, and loaded
in a process without network and cache. Up to ``--full-size`` million parameters, the model is the architecture itself.
Above this size, it is a small model of the same classes. Architectures with equal small models share one. All weights
are random. Small local copies stand for the repositories of the hub.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks._small_models import on_meta, publish, use_small_config, write_cache

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
ORIGINS = ("by_tag", "by_path", "by_path_stated")
"""Ways to name weights: a tag, a file, and a file with its activation and preprocessing."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full-size", type=float, default=80, help="store models up to this many million parameters")
    parser.add_argument("--only", default="", help="regular expression of the architectures' names")


def measure(full_size: float, only: str) -> dict[str, Any]:
    """Return one row an architecture and one row a pair of architecture and tag."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # before the first import of the hub's library, which reads these variables only once
        os.environ.update(HF_HOME=str(folder / "home"), HF_HUB_CACHE=str(folder / "hub"), HF_HUB_OFFLINE="1")
        warnings.simplefilter("ignore")
        from open_clip import list_models
        from open_clip.factory import get_model_config
        from open_clip.pretrained import list_pretrained_tags_by_model

        write_cache(folder / "hub", list_models())
        architectures, pairs = [], []
        results: dict[str, tuple[Path, Row]] = {}
        with _reader(folder / "nothing") as reader:
            for name in filter(re.compile(only).search, list_models()):
                print(f"\r\x1b[K{name}", end="", file=sys.stderr, flush=True)
                row = _parameters(name)
                if not 0 < row["million"] <= full_size:
                    use_small_config(name)
                    row["size"] = "small"
                model = json.dumps(get_model_config(name), sort_keys=True)
                if model not in results:
                    stored = folder / "models" / name
                    results[model] = (stored, _store(name, stored, reader))
                stored, result = results[model]
                architectures.append(row | result)
                pairs += [_pair(name, tag, stored, folder / "hub") for tag in list_pretrained_tags_by_model(name)]
                if row["size"] == "full":
                    shutil.rmtree(stored, ignore_errors=True)
                gc.collect()
        print("\r\x1b[K", end="", file=sys.stderr)
    return {"architectures": architectures, "pairs": pairs}


def _parameters(name: str) -> Row:
    """Count the parameters of an architecture."""
    from open_clip.factory import get_model_config

    config = get_model_config(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    row: Row = {
        "name": name,
        "size": "full",
        "image_tower": re.split(r"[_\d]", vision["timm_model_name"])[0]
        if "timm_model_name" in vision
        else ("resnet" if isinstance(vision["layers"], list) else "vit"),
        "text_tower": re.split(r"[-\d]", (text.get("hf_model_name") or "").rpartition("/")[2])[0] or "transformer",
        "tokenizer": text.get("hf_tokenizer_name") or "CLIP",
        "decoder": "multimodal_cfg" in config,
    }
    try:
        model = on_meta(config)
    except Exception as error:
        return {**row, "million": 0.0, "built": _line(error)}
    return {**row, "million": sum(each.numel() for each in model.parameters()) / 1e6, "built": "yes"}


def _store(name: str, folder: Path, reader: subprocess.Popen[str]) -> Row:
    """Build a model, store it, and read it in the other process."""
    import open_clip
    import torch
    from safetensors.torch import load_file

    from benchmarks._read_stored import TEXTS, embeddings
    from mobileclip2.config.model import Model
    from mobileclip2.models.build import build, save

    row = {"stored": "–", "loaded": "–", "equal": "–", "open_clip": "–"}
    try:
        image_text = build(Model(open_clip=name))
        save(image_text, folder)
        row["stored"] = "yes"
        expected = embeddings(image_text)
        published = open_clip.get_tokenizer(name)(list(TEXTS))
    except Exception as error:
        return {**row, "stored": _line(error)}
    assert reader.stdin and reader.stdout
    print(folder, file=reader.stdin, flush=True)
    answer = json.loads(reader.stdout.readline())
    if answer["error"]:
        return {**row, "loaded": _line(answer["error"])}
    row["loaded"] = "yes"
    found = load_file(folder.with_suffix(".safetensors"))
    different = [each for each in expected if not torch.equal(expected[each], found[each])]
    different += [] if torch.equal(published, found["tokens"]) else ["tokens of open_clip"]
    different += [] if answer["preprocess"] == str(image_text.preprocess) else ["preprocess"]
    row["equal"] = f"different: {', '.join(different)}" if different else "yes"
    try:
        plain = open_clip.create_model(f"local-dir:{folder}").eval()
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(TEXTS))
        with torch.inference_mode():
            text = plain.encode_text(tokens, normalize=True)
        close = torch.allclose(text, expected["text"], atol=1e-5)
        row["open_clip"] = "yes" if close and torch.equal(tokens, published) else "other texts"
    except Exception as error:
        row["open_clip"] = _line(error)
    return row


def _pair(name: str, tag: str, stored: Path, cache: Path) -> Row:
    """Load weights under a tag and as a file, and compare activation and preprocessing with the published ones."""
    from open_clip.factory import get_model_config
    from open_clip.pretrained import get_pretrained_cfg

    from mobileclip2.config.model import Model

    published = get_pretrained_cfg(name, tag)
    fits = bool(published.get("quick_gelu")) == bool(get_model_config(name).get("quick_gelu"))
    row: Row = {"name": name, "tag": tag, "fits": fits} | dict.fromkeys(ORIGINS, "–")
    files = list(stored.glob("*.safetensors"))
    if not files:
        return row
    publish(cache, name, tag, files[0])
    file = {"path": str(files[0])}
    stated = {
        "activation": "quick_gelu" if published.get("quick_gelu") else "gelu",
        "preprocess": {key: published[key] for key in ("mean", "std", "interpolation", "resize_mode")},
    }
    for origin, fields in zip(
        ORIGINS, ({"weights": {"tag": tag}}, {"weights": file}, {"weights": file, **stated}), strict=True
    ):
        row[origin] = _compare(lambda fields=fields: Model.model_validate({"open_clip": name, **fields}), published)
    return row


def _compare(model: Any, published: dict[str, Any]) -> str:
    from open_clip.transformer import QuickGELU

    from mobileclip2.models.build import build

    try:
        checked = model()
        path = checked.weights.path
        image_text = build(checked, Path(path) if path else None)
    except Exception as error:
        return f"refused: {_line(error)}"
    preprocess, wrong = image_text.preprocess, []
    if any(isinstance(module, QuickGELU) for module in image_text.model.modules()) != bool(published.get("quick_gelu")):
        wrong.append("activation")
    found = {
        "mean": preprocess.mean,
        "std": preprocess.std,
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize,
    }
    for key, value in found.items():
        expected = tuple(published[key]) if isinstance(published[key], list) else published[key]
        if value != expected:
            wrong.append(f"{key} {value}, published {expected}")
    return f"WRONG: {'; '.join(wrong)}" if wrong else "as published"


@contextmanager
def _reader(cache: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "benchmarks._read_stored"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=environment,
    ) as process:
        yield process


def _line(error: object) -> str:
    if isinstance(error, ValidationError):
        text = error.errors()[0]["msg"].removeprefix("Value error, ")
    else:
        text = str(error) if isinstance(error, str) else f"{type(error).__name__}: {error}"
    text = re.sub(r"/[\w/.-]*/tmp\w+|\S*/tmp/tmp\w+", "<temporary>", " ".join(text.split()))
    return text if len(text) <= 400 else f"{text[:400]}…"


CHECKS = ("built", "stored", "loaded", "equal", "open_clip")


def show(numbers: dict[str, Any]) -> str:
    """Show a table of the families, then what fails and why."""
    rows, pairs = numbers["architectures"], numbers["pairs"]
    families: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        tower = f"{row['text_tower']}{' and decoder' if row['decoder'] else ''}"
        families.setdefault((row["image_tower"], tower, _tokenizer(row["tokenizer"])), []).append(row)
    lines = [
        "| image tower | text tower | tokenizer | architectures "
        "| built | stored | loaded | same embeddings | read by open_clip |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for family, members in sorted(families.items()):
        counts = [sum(row[check] == "yes" for row in members) for check in CHECKS]
        lines.append(f"| {' | '.join(family)} | {len(members)} | {' | '.join(map(str, counts))} |")
    totals = [sum(row[check] == "yes" for row in rows) for check in CHECKS]
    lines += [f"| all | | | {len(rows)} | {' | '.join(map(str, totals))} |", ""]
    full = sum(row["size"] == "full" for row in rows)
    lines += [f"{full} architectures are stored at full size, {len(rows) - full} as small models.", ""]
    lines += _reasons("Architectures", [(row["name"], f"{check}: {row[check]}") for row in rows for check in CHECKS])
    titles = ("by tag", "by path", "by path with `activation` and `preprocess`")
    lines += [f"| pairs | number | {' | '.join(f'{title}: as published | refused | wrong' for title in titles)} |"]
    lines += [f"|---|{'--:|' * 10}"]
    for fits, title in ((True, "that fit"), (False, "that do not fit")):
        chosen = [pair for pair in pairs if pair["fits"] == fits]
        counts = [
            sum(pair[field].startswith(verdict) for pair in chosen)
            for field in ORIGINS
            for verdict in ("as published", "refused", "WRONG")
        ]
        lines.append(f"| {title} | {len(chosen)} | {' | '.join(map(str, counts))} |")
    problems = [
        (f"{pair['name']} {pair['tag']}", f"{field}: {pair[field]}")
        for pair in pairs
        for field in ORIGINS
        if pair[field] != "as published"
    ]
    return "\n".join([*lines, "", *_reasons("Pairs", problems)])


def _tokenizer(name: str) -> str:
    kind = name.rpartition("/")[2]
    return "SigLIP2" if "SigLIP2" in kind else re.sub(r"-\d{3}$|-\d\.\dB$|-\d+M$", "", kind)


def _reasons(title: str, problems: list[tuple[str, str]]) -> list[str]:
    """List each reason with its names. Names inside a reason are left out, so that equal reasons are grouped."""
    reasons: dict[str, list[str]] = {}
    for name, reason in problems:
        if not reason.endswith((": yes", ": –")):
            # the text after a semicolon is the remedy, which differs by model
            short = reason.partition(";")[0]
            for word in sorted(name.split(), key=len, reverse=True):
                short = short.replace(word, "…")
            reasons.setdefault(short, []).append(name)
    ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return [f"{title}: {len(names)}: {reason}: {', '.join(names)}" for reason, names in ordered] + [""]


def holds(numbers: dict[str, Any]) -> bool:
    """Return whether all architectures pass, each fitting pair is as published, and every mismatch is reported."""
    passed = all(row[check] == "yes" for row in numbers["architectures"] for check in CHECKS)
    return passed and all(
        pair["by_tag"].startswith("as published" if pair["fits"] else "refused")
        and not pair["by_path"].startswith("WRONG")
        and pair["by_path_stated"] == "as published"
        for pair in numbers["pairs"]
    )
