"""Our metrics equal those of clip-benchmark for the same model and sets.

The test downloads clip-benchmark into a separate folder and runs it in a separate process. ``clip_benchmark.txt`` gives
the reason. ``pytest -m slow -s`` on this file prints the metrics of both packages.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mobileclip2.data.image import decode
from mobileclip2.data.tar import TarWriter
from mobileclip2.evaluation.evaluate import evaluate
from mobileclip2.evaluation.results import Metrics
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.models.build import CONFIG, WEIGHTS, from_config, load, save
from mobileclip2.models.image_text import ImageText
from tests.mobileclip2.evaluation.small_sets import Members

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DEMO = ROOT / "demo" / "evaluation"
SMALL = {
    "embed_dim": 64,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
FASHION = (
    "t-shirt or top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
FASHION_IMAGES = 2_000
EMOJI = ("emoji-unseen-200", "emoji-retrieval")
METRICS = {
    "classification": {"acc1", "acc5", "mean_per_class_recall"},
    "retrieval": {f"{kind}_retrieval_recall@{k}" for kind in ("image", "text") for k in (1, 5, 10)},
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip_benchmark")
    install = ["uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", sys.executable]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [*install, "--target", folder, "--requirement", HERE / "clip_benchmark.txt"],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        problem = f"clip-benchmark cannot be fetched from the package index: {done.stderr.strip()[-300:]}"
        # skip only if UV_OFFLINE is set, because a skipped comparison must not look like a success
        (pytest.skip if os.environ.get("UV_OFFLINE") else pytest.fail)(problem)
    return folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small model. MOBILECLIP2_TEST_MODEL can name a folder with a trained model."""
    if named := os.environ.get("MOBILECLIP2_TEST_MODEL"):
        return Path(named)
    torch.manual_seed(0)
    model = from_config({"model_cfg": SMALL})
    learn(model, EvaluationSet("emoji-unseen-200", DEMO / "emoji-unseen-200"))
    folder = tmp_path_factory.mktemp("model")
    save(model, folder)
    return folder


def learn(model: ImageText, each: EvaluationSet) -> None:
    """Overfit the model to a part of the set, because the metrics of a random model are near 0 and equal by chance."""
    samples = list(each.samples())
    pixels = torch.stack([model.preprocess.whole(decode(sample.image)) for sample in samples])
    tokens = model.tokenize([each.classnames[sample.target] for sample in samples])
    optimizer, right = torch.optim.AdamW(model.model.parameters(), 3e-3), torch.arange(64)
    for step in range(150):
        some = torch.randperm(len(samples), generator=torch.Generator().manual_seed(step))[:64]
        images = F.normalize(model.model.encode_image(pixels[some]), dim=-1)
        logits = 20 * images @ F.normalize(model.model.encode_text(tokens[some]), dim=-1).T
        optimizer.zero_grad()
        (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EvaluationSet]:
    folder = tmp_path_factory.mktemp("sets")
    found = {name: EvaluationSet(name, DEMO / name) for name in EMOJI}
    found["captions"] = captions(folder)
    if images := fashion_mnist(folder):
        found["fashion-mnist"] = fashion(folder, *images)
    return found


@pytest.fixture(scope="module")
def theirs(packages: Path, stored: Path, sets: dict[str, EvaluationSet]) -> dict[str, dict[str, float]]:
    done = subprocess.run(
        [sys.executable, HERE / "clip_benchmark_numbers.py", stored, *(each.path for each in sets.values())],
        env={**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads(done.stdout.splitlines()[-1])
    return {name: numbers[str(each.path)] for name, each in sets.items()}


@pytest.fixture(scope="module")
def ours(stored: Path, sets: dict[str, EvaluationSet]) -> dict[str, Metrics]:
    results = evaluate(load(stored / CONFIG, stored / WEIGHTS), list(sets.values()))
    return {result.key: result.metrics for result in results}


@pytest.mark.parametrize("name", [*EMOJI, "captions", "fashion-mnist"])
def test_metrics_match_clip_benchmark(sets, ours, theirs, name: str) -> None:
    if name not in sets:
        pytest.skip("Fashion-MNIST is Debian's package dataset-fashion-mnist, which apt cannot fetch here")
    wanted = METRICS[sets[name].kind]
    print(f"\n{name}: {sets[name].size:,} images")
    for metric in sorted(wanted):
        print(f"  {metric:28} ours {ours[name][metric]:.6f}  clip-benchmark {theirs[name][metric]:.6f}")
    assert {metric: ours[name][metric] for metric in wanted} == pytest.approx(
        {metric: theirs[name][metric] for metric in wanted}, abs=1e-6
    )
    assert min(theirs[name][metric] for metric in wanted) > 0, "equal for a reason"


def captions(folder: Path) -> EvaluationSet:
    """Write an image of each class with one to five distinct captions."""
    source = EvaluationSet("emoji-unseen-200", DEMO / "emoji-unseen-200")
    templates = ("{c}", "an icon of a {c}", "a drawing of a {c}", "{c}, seen from the side", "my favorite {c}")
    shard: list[tuple[str, Members]] = []
    for sample in {sample.target: sample for sample in source.samples()}.values():
        texts = [template.format(c=source.classnames[sample.target]) for template in templates]
        lines = "\n".join(texts[: 1 + sample.target % 5])
        shard.append((sample.key, {"jpg": sample.image, "txt": lines.encode()}))
    assert len(shard) == 200
    return write(folder / "captions", shard, {"dataset_type.txt": "retrieval\n"})


def fashion(folder: Path, images: np.ndarray, labels: np.ndarray) -> EvaluationSet:
    assert len(images) == len(labels) == FASHION_IMAGES
    shard = [
        (f"{n:05d}", {"png": png(image), "cls": str(label).encode()})
        for n, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    texts = {
        "classnames.txt": "".join(f"{name}\n" for name in FASHION),
        "zeroshot_classification_templates.txt": "a photo of a {c}\na black and white photo of a {c}\n",
    }
    return write(folder / "fashion-mnist", shard, texts)


def write(folder: Path, shard: Iterable[tuple[str, Members]], texts: Mapping[str, str]) -> EvaluationSet:
    (folder / "test").mkdir(parents=True)
    with TarWriter(folder / "test" / "0.tar") as tar:
        for key, members in shard:
            tar.write(key, members)
    for name, text in {**texts, "test/nshards.txt": "1\n"}.items():
        (folder / name).write_text(text)
    return EvaluationSet(folder.name, folder)


def fashion_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the first test images ``[2000, 28, 28]`` and their labels from Debian's package.

    The package is downloaded if it is not installed. Return None if apt is missing or the download fails.
    """
    place = Path("/usr/share/datasets/fashion-mnist")
    if not place.exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            return None
        fetch = ["apt-get", "download", "-q", "dataset-fashion-mnist"]
        if subprocess.run(fetch, cwd=folder, capture_output=True).returncode:
            return None
        (package,) = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        place = folder / place.relative_to("/")
    pixels, labels = (
        gzip.decompress((place / f"t10k-{name}.gz").read_bytes()) for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    images = np.frombuffer(pixels[16:], np.uint8).reshape(-1, 28, 28)
    return images[:FASHION_IMAGES], np.frombuffer(labels[8:], np.uint8)[:FASHION_IMAGES]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
