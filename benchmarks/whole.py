"""From a raw shard to a reinforced shard: the stages of this project compared with a generator like the released one.

``ours`` runs every stage of a shard with loaded models: validation, views, captions, image and text embeddings,
joining. The twin follows a description of the released generator. It holds the samples of a whole shard in memory,
decodes images in line, and uses fp32 without autocast. It calls open_clip's ``generate`` on the same image again for
each caption, pads every text to the context, fetches results batch by batch, and compresses ``torch.save`` with gzip.
It does not imitate the faults of the released generator: it embeds every sample.

The models are two teachers and a CoCa with random weights. On a CPU they are small, with 32-pixel patches. The images
are photo-like JPEGs. Captions have 30 tokens, so that both write equally many. Both embed the same views. The smallest
cosine similarity of their image embeddings is printed.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from open_clip.factory import get_model_config
from safetensors.torch import save_file
from torch.nn import functional as F

from benchmarks._data import pipeline, uninitialized
from benchmarks._turns import Numbers, bars, device, in_turns, machine, ratios, stated, verdict, wait
from benchmarks.captions import captioner as random_captioner
from benchmarks.captions import supply_missing_classes
from demo.tars import write_tar
from mobileclip2.captioners.coca import coca_of
from mobileclip2.captioners.load import load_captioner
from mobileclip2.captioners.vocabulary import text_of
from mobileclip2.data import reinforced_format
from mobileclip2.data.augmentation import View, render
from mobileclip2.data.image import decode
from mobileclip2.data.tar import read_samples
from mobileclip2.engine.pipeline import Pipeline, Task, TaskBatch
from mobileclip2.engine.shard import Shard, local_copy
from mobileclip2.engine.shard_stage import ShardStage, WriteShard
from mobileclip2.engine.stage import load_stage
from mobileclip2.models.build import CONFIG, WEIGHTS
from mobileclip2.models.image_text import ImageText
from mobileclip2.progress import silent
from mobileclip2.stages import synthetic_captions, teacher_embeddings
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.reinforced_dataset import tar_name
from mobileclip2.store import Artifact

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 6}
VISION = {"image_size": 224, "patch_size": 32, "width": 384, "layers": 8, "head_width": 64}
TEACHER = {"embed_dim": 256, "custom_text": True, "vision_cfg": VISION, "text_cfg": TEXT}
COCA = {
    "embed_dim": 256,
    "custom_text": True,
    "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": TEXT,
}

TEACHERS, VIEWS, CAPTIONS, FASTER = ("one", "other"), 4, 5, 6.0
FULL = {"12.8 M": 12.8e6, "1.9 B": 1.9e9}


@dataclass(frozen=True)
class Size:
    teacher: Numbers
    coca: Numbers
    views: int
    samples: int
    of_twin: int
    """Samples of the shard that the twin processes. The twin takes several times as long per sample."""
    batch: int
    repeats: int


ON_CPU = Size(TEACHER, COCA, VIEWS, 16, 4, 16, 2)


def on_gpu() -> Size:
    return Size(get_model_config("ViT-L-14"), get_model_config("coca_ViT-L-14"), 2, 512, 64, 128, 3)


def measure() -> Numbers:
    place = device()
    size = on_gpu() if place.type == "cuda" else ON_CPU
    return {"machine": machine(), **compared(size, place)}


def compared(size: Size, place: torch.device, until: float = math.inf) -> Numbers:
    supply_missing_classes()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = raw(folder, size, place)
        with loaded_once():
            for key, asset in made.graph.items():
                made.materialize(key, "g00" if asset.grouped else None)
            ours, twin = Ours.of(made), Twin.of(made, size, place, folder / "twin.tar")
        spent: dict[str, list[dict[str, float]]] = {"ours": [], "twin": []}
        times = in_turns(
            {"ours": lambda: spent["ours"].append(ours.run()), "twin": lambda: spent["twin"].append(twin.run())},
            size.repeats,
            until,
        )
        agree = least_cosine(ours.tar, twin.tar)
    counts = {"ours": size.samples, "twin": min(size.of_twin, size.samples)}
    each = {
        name: {clock: [seconds / counts[name] for seconds in values] for clock, values in clocks.items()}
        for name, clocks in times.items()
    }
    parts = {name: median_parts(rounds[1:], counts[name]) for name, rounds in spent.items()}
    return {
        "teachers": len(TEACHERS),
        "views": size.views,
        "captions": CAPTIONS,
        "samples": counts,
        "seconds_a_sample": each,
        "faster": {clock: ratios(each["twin"][clock], each["ours"][clock]) for clock in ("wall", "cpu")},
        "parts": parts,
        "largest": max(parts["ours"], key=lambda part: parts["ours"][part]),
        "least_cosine": agree,
    }


def raw(folder: Path, size: Size, place: torch.device) -> Pipeline:
    """Return a pipeline of one shard with two teachers and a captioner."""
    model, _ = random_captioner(size.coca, torch.device("cpu"))
    weights = folder / "coca.safetensors"
    save_file({key: value.contiguous().clone() for key, value in model.state_dict().items()}, weights)
    return pipeline(
        folder,
        dict.fromkeys(TEACHERS, size.teacher),
        samples=size.samples,
        views={"count": size.views},
        batch=size.batch,
        device=place.type,
        captioners=[
            {
                "name": "coca",
                "model": {"config": size.coca, "weights": {"path": str(weights)}},
                "captions": CAPTIONS,
                "generation": {"min_tokens": 30, "max_tokens": 30},
            }
        ],
    )


@contextmanager
def loaded_once() -> Iterator[None]:
    """Load each model once and share it between stages.

    The benchmark measures the work of a sample, and a real group loads its models once for many shards.
    """
    loaded: dict[str, ImageText] = {}

    def once(load: Callable[..., ImageText]) -> Callable[..., ImageText]:
        def take(stored: Artifact | Path, *rest: Any) -> ImageText:
            key = stored.summary.data_version if isinstance(stored, Artifact) else str(stored)
            if key not in loaded:
                loaded[key] = load(stored, *rest)
            return loaded[key]

        return take

    with (
        uninitialized(),
        patch.object(teacher_embeddings, "load_image_text", once(load_image_text)),
        patch.object(synthetic_captions, "load_captioner", once(load_captioner)),
    ):
        yield


@dataclass
class Ours:
    """The stages of one shard, with loaded models."""

    shard: Shard
    stages: list[tuple[str, WriteShard, list[Task]]]
    """Name of the step that a stage counts for, the function that writes a shard, and the tasks."""

    @classmethod
    def of(cls, made: Pipeline) -> Ours:
        (shard,) = made.inventory.group_shards("g00")
        stages = []
        for asset in made.graph.values():
            if asset.grouped:
                parts = [work for part in asset.slices.values() if (work := made.task_for(asset, part, "g00"))]
                stage = load_stage(asset.stage)
                assert isinstance(stage, ShardStage)
                stages.append((counted_as(asset.key), stage.begin(TaskBatch(made, asset, "g00", parts, silent)), parts))
        return cls(shard, stages)

    @property
    def tar(self) -> Path:
        _, _, (part,) = self.stages[-1]
        return part.output.fetch(tar_name(self.shard))

    def run(self) -> dict[str, float]:
        spent: dict[str, float] = {}
        for name, write, parts in self.stages:
            with clocked(spent, name):
                write(self.shard, parts)
        return spent


def counted_as(key: str) -> str:
    if key.startswith("teacher_embeddings/"):
        return "image embeddings" if key.endswith("/image") else "text embeddings"
    named = {"synthetic_captions/coca": "captions", "reinforced_dataset": "writing"}
    return named.get(key, "reading, validation, views")


@dataclass
class Twin:
    """A generator with the structure of the released one."""

    teachers: list[ImageText]
    captioner: ImageText
    shard: Shard
    views: list[list[View]]
    """Views of each sample."""
    batch: int
    place: torch.device
    tar: Path
    spent: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, made: Pipeline, size: Size, place: torch.device, tar: Path) -> Twin:
        (shard,) = made.inventory.group_shards("g00")
        teachers = [load_image_text(made.read(f"teacher/{name}")[0], made.inventory) for name in TEACHERS]
        stored_captioner = made.read("captioner/coca")[0]
        captioner = load_captioner(stored_captioner.fetch(CONFIG), stored_captioner.fetch(WEIGHTS))
        for model in (*teachers, captioner):
            model.model.to(place).eval()
        stored = made.read("reinforced_dataset", "g00")[0].fetch(tar_name(shard))
        views = [sample.views for sample in samples_of(stored)][: size.of_twin]
        return cls(teachers, captioner, shard, views, size.batch, place, tar)

    @torch.inference_mode()
    def run(self) -> dict[str, float]:
        self.spent = {}
        with clocked(self.spent, "reading, validation, views"), local_copy(self.shard.url).open("rb") as file:
            samples = [sample.members for sample in read_samples(file, self.shard.url)][: len(self.views)]
        members: list[tuple[str, bytes]] = []
        for start in range(0, len(samples), self.batch):
            some = samples[start : start + self.batch]
            found = self._batch(some, self.views[start : start + self.batch])
            with clocked(self.spent, "writing"):
                for number, sample in enumerate(some):
                    members += self._members(start + number, sample, {key: rows[number] for key, rows in found.items()})
        with clocked(self.spent, "writing"):
            write_tar(self.tar, members)
        return self.spent

    def _batch(self, samples: list[dict[str, bytes]], views: list[list[View]]) -> dict[str, list[Any]]:
        """Return the embeddings and captions of each sample."""
        size = self.teachers[0].preprocess.size
        with clocked(self.spent, "reading, validation, views"):
            drawn, images = [], []
            for sample, of_sample in zip(samples, views, strict=True):
                image = decode(sample["jpg"])
                drawn += [self.teachers[0].preprocess.tensor(render(image, view, size)) for view in of_sample]
                images.append(self.captioner.preprocess.whole(image))
            pixels, whole = torch.stack(drawn), torch.stack(images)
        with clocked(self.spent, "image embeddings"):
            embedded = [teacher.embed_images(pixels.to(self.place)).cpu() for teacher in self.teachers]
            rows = torch.cat(embedded, 1).unflatten(0, (len(samples), -1))
        with clocked(self.spent, "text embeddings"):
            text = self._texts([sample["txt"].decode() for sample in samples])
        captions: list[list[str]] = [[] for _ in samples]
        synthetic = []
        for _ in range(CAPTIONS):
            with clocked(self.spent, "captions"):
                written = self._captions(whole)
            with clocked(self.spent, "text embeddings"):
                synthetic.append(self._texts(written))
            for of_sample_, caption in zip(captions, written, strict=True):
                of_sample_.append(caption)
        return {
            "image_emb": list(rows),
            "text_emb": list(text[:, None]),
            "syn_text_coca_emb": list(torch.stack(synthetic, 1)),
            "captions": captions,
        }

    def _captions(self, images: torch.Tensor) -> list[str]:
        model, tokenizer = coca_of(self.captioner)
        lines = model.generate(
            images.to(self.place), generation_type="top_p", top_p=0.9, seq_len=30, min_seq_len=29
        ).tolist()
        return [text_of(tokenizer, line).split(".")[0].strip() or "." for line in lines]

    def _texts(self, texts: list[str]) -> torch.Tensor:
        rows = []
        for teacher in self.teachers:
            tokens = teacher.tokenize(texts).to(self.place)
            rows.append(F.normalize(teacher.model.encode_text(tokens), dim=-1).cpu())  # type: ignore[operator]
        return torch.cat(rows, 1)

    def _members(self, number: int, sample: dict[str, bytes], found: dict[str, Any]) -> list[tuple[str, bytes]]:
        key = f"{number:09d}"
        packed = io.BytesIO()
        torch.save({name: rows.bfloat16() for name, rows in found.items() if name.endswith("_emb")}, packed)
        views = [view.to_list() for view in self.views[number]]
        return [
            (f"{key}.jpg", sample["jpg"]),
            (f"{key}.txt", sample["txt"]),
            (f"{key}.json", sample["json"]),
            (f"{key}.syn.json", json.dumps({"syn_text_coca": found["captions"]}).encode()),
            (f"{key}.paug.json", json.dumps({"param_aug": views}).encode()),
            (f"{key}.pth.gz", gzip.compress(packed.getvalue())),
        ]


@contextmanager
def clocked(spent: dict[str, float], part: str) -> Iterator[None]:
    """Add the seconds of a part: wall time on a GPU, CPU time without one."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    wait()
    started = clock()
    yield
    wait()
    spent[part] = spent.get(part, 0.0) + clock() - started


def median_parts(rounds: list[dict[str, float]], samples: int) -> dict[str, float]:
    return {part: statistics.median(each[part] for each in rounds) / samples for part in rounds[0]}


def samples_of(tar: Path) -> Iterator[reinforced_format.ReinforcedSample]:
    members: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as file:
        for member in file:
            key, _, extension = member.name.partition(".")
            content = file.extractfile(member)
            assert content
            members.setdefault(key, {})[extension] = content.read()
    for key, found in members.items():
        yield reinforced_format.decode(found, key, str(tar))


def least_cosine(one: Path, other: Path) -> float:
    """Return the smallest cosine similarity of image embeddings, for each teacher, over the samples of both tars."""
    least = 1.0
    for ours, theirs in zip(samples_of(one), samples_of(other), strict=False):
        assert ours.image_emb.shape == theirs.image_emb.shape
        assert ours.captions.keys() == theirs.captions.keys()
        for written, its_texts in zip(ours.captions.values(), theirs.captions.values(), strict=True):
            # random weights sometimes write degenerate captions, and only ours leaves them out
            assert 0 < len(written) <= len(its_texts)
        for mine, its in zip(ours.image_emb.float().chunk(2, 1), theirs.image_emb.float().chunk(2, 1), strict=True):
            least = min(least, float(F.cosine_similarity(mine, its).min()))
    return least


def show(numbers: Numbers) -> str:
    on_gpu = "no GPU" not in numbers["machine"]
    clock = "wall" if on_gpu else "cpu"
    faster, parts = numbers["faster"], numbers["parts"]
    lines = [
        f"{numbers['views']} views, {numbers['captions']} captions, {numbers['teachers']} teachers, "
        f"{numbers['samples']['ours']} samples; {numbers['machine']}"
    ]
    for name, clocks in numbers["seconds_a_sample"].items():
        middle = {key: statistics.median(values) for key, values in clocks.items()}
        lines.append(f"  {name:5} {middle['wall']:8.4f} s a sample  (CPU time {middle['cpu']:.4f} s)")
    lines += [
        f"  twin to ours: {stated(faster['wall'])} x, CPU time {stated(faster['cpu'])} x, "
        f"{verdict(faster[clock]['median'], FASTER)}",
        f"  least cosine of image embeddings: {numbers['least_cosine']:.5f}",
        f"  {'':28} {'ours':>10} {'twin':>10}   {'seconds' if on_gpu else 'CPU seconds'} a sample",
    ]
    for part, ours in parts["ours"].items():
        theirs = parts["twin"][part]
        lines.append(f"  {part:28} {ours:10.4f} {theirs:10.4f}   {theirs / ours:6.1f} x")
    return "\n".join(
        [*lines, f"where ours spends its time; the largest part: {numbers['largest']}", *bars(parts["ours"])]
    )
