"""The evaluation of a model on a classification set, from tar to metrics, compared with the bare passes of its towers.

The models are MobileCLIP2-S0 and ViT-B-32, whose time is mostly arithmetic. They have random weights. The set has
photo-like JPEGs and ten classes with one template.

- ``evaluate``: :func:`mobileclip2.evaluation.evaluate.evaluate` with a loaded model and an empty feature cache.
- ``image tower``: the same model on the same batches, as tensors in the memory of its device.
- ``text tower``: the texts of the classes.
- ``decode and resize``: all work before the image tower, with the same number of threads and without a model.
- ``again``: the same evaluation with cached features, as for another task on the same images or another run.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from open_clip.factory import get_model_config

from benchmarks._data import DIFFERENT
from benchmarks._pictures import photograph
from benchmarks._turns import Numbers, device, in_turns, machine, ratio, table, verdict
from demo.tars import write_tar
from mobileclip2.data.image import decode
from mobileclip2.evaluation.evaluate import evaluate
from mobileclip2.evaluation.features import DECODERS
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.models.build import from_config
from mobileclip2.models.image_text import ImageText

MODELS = ("MobileCLIP2-S0", "ViT-B-32")
ON_CPU, ON_GPU = (96, 32, 3), (2048, 256, 5)
"""Images, batch, repeats."""

CLASSES, KEPT = 10, 0.90


def measure() -> Numbers:
    place = device()
    images, batch, repeats = ON_GPU if place.type == "cuda" else ON_CPU
    models = {name: get_model_config(name) for name in MODELS}
    return {"machine": machine(), **compared(models, images, batch, repeats, place)}


def compared(
    models: dict[str, Numbers], images: int, batch: int, repeats: int, place: torch.device, until: float = math.inf
) -> Numbers:
    with tempfile.TemporaryDirectory() as folder:
        # decoders ignore bytes after the end of a JPEG, but the feature cache treats each picture as different
        pictures = [photograph(number % DIFFERENT) + str(number).encode() for number in range(images)]
        test_set = write_set(Path(folder) / "set", pictures)
        measured = {}
        for name, config in models.items():
            torch.manual_seed(0)
            model = from_config({"model_cfg": config})
            model.model.to(place).eval()
            kept = Path(folder) / "kept" / name
            evaluate(model, [test_set], batch=batch, feature_cache=kept)
            times = in_turns(_contenders(model, test_set, pictures, batch, place, kept), repeats, until)
            parts = ["image tower", "text tower", "decode and resize"]
            measured[name] = {"times": times, "of_parts": ratio(times, parts, "evaluate")}
    return {"images": images, "batch": batch, "measured": measured}


def _contenders(
    model: ImageText, test_set: EvaluationSet, pictures: list[bytes], batch: int, place: torch.device, kept: Path
) -> dict[str, Callable[[], object]]:
    texts = [test_set.templates[0].format(c=name) for name in test_set.classnames]

    def prepared() -> list[torch.Tensor]:
        with ThreadPoolExecutor(DECODERS, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            return list(threads.map(lambda data: model.preprocess.whole(decode(data)), pictures))

    in_memory = [part.to(place) for part in torch.stack(prepared()).split(batch)]
    return {
        "evaluate": lambda: evaluate(model, [test_set], batch=batch),
        "image tower": lambda: torch.cat([model.embed_images(part) for part in in_memory]).cpu(),
        "text tower": lambda: model.embed_texts(texts).cpu(),
        "decode and resize": prepared,
        "again": lambda: evaluate(model, [test_set], batch=batch, feature_cache=kept),
    }


def write_set(folder: Path, pictures: list[bytes]) -> EvaluationSet:
    folder.mkdir(parents=True)
    (folder / "classnames.txt").write_text("".join(f"class {number}\n" for number in range(CLASSES)))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    members = [
        (f"s{number:07d}.{extension}", data)
        for number, picture in enumerate(pictures)
        for extension, data in (("jpg", picture), ("cls", str(number % CLASSES).encode()))
    ]
    (folder / "test").mkdir()
    (folder / "test" / "nshards.txt").write_text("1")
    write_tar(folder / "test" / "0.tar", members)
    assert len({hashlib.sha256(picture).digest() for picture in pictures}) == len(pictures)
    return EvaluationSet("photographs", folder)


def show(numbers: dict[str, Any]) -> str:
    lines = [
        f"{numbers['images']} images in batches of {numbers['batch']}; {numbers['machine']}; milliseconds an image"
    ]
    for name, found in numbers["measured"].items():
        of = found["of_parts"]
        lines += [
            f"{name}",
            *table(found["times"], "evaluate", numbers["images"], "ms"),
            f"  towers + decode and resize, each alone, to evaluate: {of['wall']:.2f} (CPU time {of['cpu']:.2f}), "
            f"{verdict(of['wall'], KEPT)}",
        ]
    return "\n".join(lines)
