"""Write the first files of the corpus: ``python -m tests.fuzz.write_corpus``. Files of findings are added by hand."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch

from demo.tars import write_tar
from mobileclip2.config.augmentation import Augmentation
from mobileclip2.data import sidecar
from mobileclip2.data.augmentation import sample_view
from mobileclip2.data.reinforced_format import ReinforcedSample, encode
from mobileclip2.engine.lineage import Lineage, Node
from mobileclip2.executors.messages import Failure, StepReport, format_message
from mobileclip2.models.tensors import write_tensors
from mobileclip2.progress import Step
from mobileclip2.store.manifest import File, Manifest, identify
from mobileclip2.training.checkpoint import Checkpoints
from pipelines.profiles import PROFILES
from tests.fuzz.harness import CORPUS
from tests.pictures import jpeg, picture

SIZE = (24, 24)
SAMPLE = {"jpg": jpeg(1, SIZE), "txt": b"a red square", "json": b'{"caption": "a red square", "url": "https://a.b/c"}'}


def add(name: str, data: bytes) -> None:
    path = CORPUS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tar(*samples: dict[str, bytes], prefix: str = "") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        write_tar(
            path, [(f"{prefix}{n:06d}.{name}", data) for n, each in enumerate(samples) for name, data in each.items()]
        )
        return path.read_bytes()


def image(kind: str) -> bytes:
    file = io.BytesIO()
    picture(2, SIZE).save(file, kind)
    return file.getvalue()


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def main() -> None:
    torch.manual_seed(0)
    add("tar/plain.tar", tar(SAMPLE, {**SAMPLE, "txt": b"another caption"}))
    add("tar/long-names.tar", tar(SAMPLE, prefix="n" * 120 + "/"))
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        add(f"image/small.{kind.lower()}", image(kind))
    view = sample_view(Augmentation(), 0, "k", 0, 64, 48)
    rows = torch.randn(1, 2).bfloat16()
    sample = ReinforcedSample(
        key="k", caption="a", views=[view], captions={"syn_text": ["b"]}, image_emb=rows, text_emb=rows,
        caption_embs={"syn_text": rows}, image=jpeg(1, SIZE), extension="jpg", url=None, rest={},
    )  # fmt: skip
    for storage in ("npz", "pth.gz"):
        members = encode(sample, storage)
        add(f"reinforced/{storage}.tar", tar(members))
        add(f"{storage}/embeddings", members[storage])
    table = pa.table({"key": ["a", "b"], "caption": ["one", "two"], "width": [1, 2]})
    add("sidecar/table.parquet", sidecar.to_bytes(table))
    bits = np.arange(8, dtype=np.uint16).reshape(2, 4)
    add("embeddings/two.parquet", sidecar.to_bytes(sidecar.embeddings_table(["a", "b"], bits)))
    identity = identify("augmentations", "1", {"seed": 1}, {"raw": "0" * 32})
    manifest = Manifest(
        asset="augmentations", part="view-0", group="g00", fingerprint=identity, code_version="1", declared={"seed": 1},
        inputs={"raw": "0" * 32}, samples=2, skipped=1, skip_reasons={"bad-json": 1}, facts={},
        files=[File(name="a.parquet", size=3, sha256="0" * 64)],
    )  # fmt: skip
    add("manifest/augmentations.json", manifest.to_bytes())
    note = json.dumps({"folder": "/nowhere", "text": "name: a\n"})
    add("lease/run.json", json.dumps({"holder": "0" * 32, "name": "run/host/1", "renewed": 0.0, "note": note}).encode())
    add("journal/metrics.jsonl", b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 1.5}\n')
    node = Node(
        asset="augmentations", part="view-0", group="g00", fingerprint="0" * 16, code_version="1",
        path=f"augmentations/{'0' * 16}/g00", made_from={"raw": "0" * 64},
    )  # fmt: skip
    add("lineage/one.json", Lineage(asset="augmentations", nodes={"augmentations": node}).to_bytes())
    step, failure = StepReport(step=Step(1, 2, "shards")), Failure(message="m", permanent=True)
    add("messages/output.txt", f"text {format_message(step)}\n{format_message(failure)}\n".encode())
    state = {"weight": torch.randn(2, 2), "bias": torch.zeros(2)}
    with tempfile.TemporaryDirectory() as folder:
        write_tensors(Path(folder) / "a.safetensors", state)
        add("weights/a.safetensors", (Path(folder) / "a.safetensors").read_bytes())
    add("weights/a.pt", saved({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}))
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    add("weights/old.pt", file.getvalue())
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), model, optimizer, fingerprint="f", total_steps=2)
        name = checkpoints.save(1, metrics="m")
        add(f"checkpoint/{name}", (Path(folder) / name).read_bytes())
    add("profile/tiny.yaml", (PROFILES / "tiny.yaml").read_bytes())
    result = {"key": "imagenet1k", "dataset": "ImageNet 1k", "metrics": {"acc1": 0.5, "main_metric": 0.5}}
    add("results/eval_results.jsonl", f"{json.dumps(result)}\n".encode())
    add("sentences/captions.txt", b"A dog of dr . smith runs 3 . 5 km . It is happy .")
    pairs = pa.table({"image": ["a.jpg", "b.jpg"], "caption": ["a dog", "a cat"]})
    for ending, delimiter in (("csv", ","), ("tsv", "\t")):
        file = io.BytesIO()
        pyarrow.csv.write_csv(pairs, file, pyarrow.csv.WriteOptions(delimiter=delimiter))
        add(f"table-{ending}/pairs.{ending}", file.getvalue())
    add("table-json/pairs.json", json.dumps(pairs.to_pylist()).encode())
    add("table-jsonl/pairs.jsonl", "".join(f"{json.dumps(row)}\n" for row in pairs.to_pylist()).encode())
    add("table-parquet/pairs.parquet", parquet(pairs))
    add("classnames/two.txt", b"red square\ngreen circle\n")
    add("templates/one.txt", b"a photo of a {c}\n")
    add("dataset_type/classification.txt", b"classification\n")
    add("evaluation-tar/two.tar", tar({"webp": image("WEBP"), "cls": b"0"}, {"webp": image("WEBP"), "cls": b"1"}))


if __name__ == "__main__":
    main()
