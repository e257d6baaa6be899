"""Our numbers are those of clip-benchmark on the same model and sets.

The package is fetched into a folder of its own for the test (why: ``clip_benchmark.txt``) and runs in a process of its own.
``pytest -m slow -s`` on this file prints the numbers of both.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import RETRIEVAL, Members, WriteSet

from mobileclip2.evaluation.evaluate import evaluate
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.models.build import CONFIG, WEIGHTS, from_config, load, save

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DEMO = ROOT / "demo" / "evaluation"
SMALL = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
FASHION = (
    "t-shirt or top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

Judge = Callable[[EvaluationSet], tuple[dict[str, float], dict[str, float]]]


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
        pytest.skip(f"clip-benchmark cannot be fetched from the package index: {done.stderr.strip()[-300:]}")
    return folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in a folder; MOBILECLIP2_TEST_MODEL names a trained one to be judged in its place."""
    if named := os.environ.get("MOBILECLIP2_TEST_MODEL"):
        return Path(named)
    torch.manual_seed(0)
    model = from_config({"model_cfg": SMALL})
    for parameter in model.model.parameters():  # a fresh model hardly tells two inputs apart
        parameter.data.mul_(2)
    folder = tmp_path_factory.mktemp("model")
    save(model, folder)
    return folder


@pytest.fixture
def both(packages: Path, stored: Path) -> Judge:
    """Our metrics of a set and theirs."""

    def judge(each: EvaluationSet) -> tuple[dict[str, float], dict[str, float]]:
        done = subprocess.run(
            [sys.executable, HERE / "clip_benchmark_numbers.py", stored, each.path],
            env={**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        theirs = json.loads(done.stdout.splitlines()[-1])[str(each.path)]
        (result,) = evaluate(load(stored / CONFIG, stored / WEIGHTS), [each])
        ours = {name: value for name, value in result.metrics.items() if name in theirs and value is not None}
        print(f"\n{each.name}: {each.size:,} images")
        for name, value in ours.items():
            print(f"  {name:28} ours {value:.6f}  clip-benchmark {theirs[name]:.6f}")
        return ours, {name: theirs[name] for name in ours}

    return judge


@pytest.mark.parametrize("name", ["emoji-861", "emoji-197", "emoji-unseen-200"])
def test_zero_shot_on_emoji(both: Judge, name: str) -> None:
    ours, theirs = both(EvaluationSet(name, DEMO / name))
    assert set(ours) == {"acc1", "acc5", "mean_per_class_recall"}
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_retrieval_of_emoji(both: Judge) -> None:
    ours, theirs = both(EvaluationSet("emoji-retrieval", DEMO / "emoji-retrieval"))
    assert len(ours) == 6 and ours == pytest.approx(theirs, abs=1e-6)


def test_retrieval_with_several_captions_an_image(both: Judge, write_set: WriteSet) -> None:
    """An image of each class with one to five captions, no two of which are the same."""
    source = EvaluationSet("emoji-197", DEMO / "emoji-197")
    templates = ("{c}", "an icon of a {c}", "a drawing of a {c}", "{c}, seen from the side", "my favourite {c}")
    shard: list[tuple[str, Members]] = []
    for sample in {sample.target: sample for sample in source.samples()}.values():
        texts = [template.format(c=source.classnames[sample.target]) for template in templates]
        captions = "\n".join(texts[: 1 + sample.target % 5])
        shard.append((sample.key, {"jpg": sample.image, "txt": captions.encode()}))
    ours, theirs = both(write_set(shard, name="captions", files=RETRIEVAL))
    assert len(shard) == 197 and len(ours) == 6 and ours == pytest.approx(theirs, abs=1e-6)


def test_zero_shot_on_fashion_mnist(both: Judge, write_set: WriteSet, tmp_path: Path) -> None:
    images, labels = fashion_mnist(tmp_path)
    shard = [
        (f"{n:05d}", {"png": png(image), "cls": str(label).encode()})
        for n, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    texts: dict[str, str | None] = {
        "classnames.txt": "".join(f"{name}\n" for name in FASHION),
        "zeroshot_classification_templates.txt": "a photo of a {c}\na black and white photo of a {c}\n",
    }
    ours, theirs = both(write_set(shard, name="fashion-mnist", files=texts))
    assert len(shard) == 10_000 and set(ours) == {"acc1", "acc5", "mean_per_class_recall"}
    assert ours == pytest.approx(theirs, abs=1e-6)


def fashion_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Test images ``[10000, 28, 28]`` and labels of Debian's package, installed or fetched."""
    place = Path("/usr/share/datasets/fashion-mnist")
    if not place.exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            pytest.skip("Fashion-MNIST comes as Debian's package dataset-fashion-mnist, and there is no apt here")
        fetch = ["apt-get", "download", "-q", "dataset-fashion-mnist"]
        done = subprocess.run(fetch, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"apt cannot fetch dataset-fashion-mnist: {done.stderr.strip()[-300:]}")
        (package,) = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        place = folder / place.relative_to("/")
    pixels, labels = (
        gzip.decompress((place / f"t10k-{name}.gz").read_bytes()) for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    return np.frombuffer(pixels[16:], np.uint8).reshape(-1, 28, 28), np.frombuffer(labels[8:], np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
