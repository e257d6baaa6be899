"""Samples are joined by key, even if other rows are missing, reordered or damaged."""

import hashlib
import io
import json
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobileclip2.config.augmentation import Augmentation
from mobileclip2.data import sidecar
from mobileclip2.data.augmentation import View, render, sample_view
from mobileclip2.data.image import decode as decode_image
from mobileclip2.data.join import TeacherFiles, join_shard
from mobileclip2.data.reinforced_format import ReinforcedSample, decode
from mobileclip2.data.tar import TarWriter, read_samples
from mobileclip2.data.validate import KEPT
from mobileclip2.errors import DamagedOutput, ShardError, StoreError

TEACHERS = {"large": 6, "small": 4}
VIEWS = 2
CAPTIONS = {"coca": 2, "other": 1}
WIDTH, HEIGHT = 40, 30
KEYS = [f"folder.v1/{number:04d}" for number in range(7)]


def pixels(key: str) -> bytes:
    values = np.frombuffer(hashlib.shake_128(key.encode()).digest(WIDTH * HEIGHT * 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(values.reshape(HEIGHT, WIDTH, 3)).save(target, "PNG")
    return target.getvalue()


def vector(dim: int, *about: object) -> torch.Tensor:
    """Return a unit vector that depends on ``about``."""
    seed = int.from_bytes(hashlib.sha256(repr(about).encode()).digest()[:7], "big")
    row = torch.randn(dim, generator=torch.Generator().manual_seed(seed))
    return (row / row.norm()).bfloat16()


@dataclass
class Shard:
    """A small shard on disk with all its sidecars."""

    folder: Path
    keys: list[str] = field(default_factory=lambda: list(KEYS))
    teachers: dict[str, int] = field(default_factory=lambda: dict(TEACHERS))
    empty: set[tuple[str, int, str]] = field(default_factory=set)
    """(captioner, caption, key) of failed captions"""
    images: dict[str, bytes] = field(default_factory=dict)
    """images of some keys (other keys get random pixels)"""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.images = {key: pixels(key) for key in self.keys} | self.images
        with TarWriter(self.source) as writer:
            for number, key in enumerate(self.keys):
                members = {"png": self.images[key], "txt": f"real {key}".encode()}
                if number % 2:
                    members["json"] = json.dumps({"uid": f"u{number}", "caption": "x"}).encode()
                writer.write(key, members)
        rows = [self._raw(key) for key in self.keys]
        (self.folder / "raw.parquet").write_bytes(sidecar.to_bytes(pa.Table.from_pylist(rows, KEPT)))
        for path, values in self._texts().items():
            schema = sidecar.VIEWS if path.name.startswith("view") else sidecar.CAPTIONS
            path.write_bytes(sidecar.to_bytes(pa.table([self.keys, values], schema=schema)))
        for teacher, dim in self.teachers.items():
            for path, what in self._embedded(teacher).items():
                rows = [vector(dim, teacher, what, key) for key in self.keys]
                path.write_bytes(sidecar.to_bytes(sidecar.embeddings_table(self.keys, torch.stack(rows))))

    @property
    def source(self) -> Path:
        return self.folder / "source.tar"

    def _raw(self, key: str) -> dict[str, object]:
        return {
            "key": key,
            "caption": f"real {key}",
            "width": WIDTH,
            "height": HEIGHT,
            "image": "png",
            "sha256": hashlib.sha256(self.images[key]).hexdigest(),
            "url": f"http://x/{key}" if key.endswith("3") else None,
        }

    def view(self, number: int, key: str) -> View:
        return sample_view(Augmentation(), 5, key, number, WIDTH, HEIGHT)

    def caption(self, captioner: str, number: int, key: str) -> str:
        return "" if (captioner, number, key) in self.empty else f"{captioner} {number} of {key}"

    def _texts(self) -> dict[Path, list[str]]:
        files = {path: [self.view(n, key).to_json() for key in self.keys] for n, path in enumerate(self.views)}
        for captioner, paths in self.captions.items():
            for number, path in enumerate(paths):
                files[path] = [self.caption(captioner, number, key) for key in self.keys]
        return files

    def _embedded(self, teacher: str) -> dict[Path, str]:
        files = self.files(teacher)
        paths = {path: f"view {number}" for number, path in enumerate(files.image)} | {files.text: "real"}
        for captioner, listed in files.captions.items():
            paths |= {path: f"{captioner} {number}" for number, path in enumerate(listed)}
        return paths

    @property
    def views(self) -> list[Path]:
        return [self.folder / f"view-{number}.parquet" for number in range(VIEWS)]

    @property
    def captions(self) -> dict[str, list[Path]]:
        return {
            name: [self.folder / f"{name}-{number}.parquet" for number in range(count)]
            for name, count in CAPTIONS.items()
        }

    def files(self, teacher: str) -> TeacherFiles:
        start = self.folder / teacher
        start.mkdir(exist_ok=True)
        captions = {name: [start / path.name for path in paths] for name, paths in self.captions.items()}
        return TeacherFiles(teacher, [start / path.name for path in self.views], start / "text.parquet", captions)

    def side_files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*.parquet") if path.name != "raw.parquet")

    def take(self, path: Path, rows: list[int]) -> None:
        """Replace a sidecar by some of its rows, in this order."""
        path.write_bytes(sidecar.to_bytes(sidecar.read(path).take(rows)))

    def without(self, path: Path, key: str) -> None:
        self.take(path, [row for row, other in enumerate(self.keys) if other != key])

    def join(self, out: Path | None = None, **options) -> tuple[pa.Table, dict[str, ReinforcedSample]]:
        out = out or self.folder / "out.tar"
        teachers = [self.files(teacher) for teacher in self.teachers]
        with self.source.open("rb") as source:
            count, skipped = join_shard(
                source, self.folder / "raw.parquet", self.views, self.captions, teachers, out, **options
            )
        with out.open("rb") as file:
            samples = [decode(sample.members, sample.key, "out.tar") for sample in read_samples(file, "out.tar")]
        assert count == len(samples)
        return skipped, {sample.key: sample for sample in samples}

    def embedding(self, what: str, key: str) -> torch.Tensor:
        return torch.cat([vector(dim, teacher, what, key) for teacher, dim in self.teachers.items()])

    def expect(self, sample: ReinforcedSample) -> None:
        """Check every field of a joined sample."""
        key = sample.key
        assert sample.caption == f"real {key}" and sample.image in (None, self.images[key])
        assert sample.views == [self.view(number, key) for number in range(VIEWS)]
        expected = torch.stack([self.embedding(f"view {number}", key) for number in range(VIEWS)])
        assert torch.equal(sample.image_emb, expected)
        assert torch.equal(sample.text_emb, self.embedding("real", key)[None])
        assert list(sample.captions) == list(sample.caption_embs) == [f"syn_text_{name}" for name in CAPTIONS]
        for name, count in CAPTIONS.items():
            written = [number for number in range(count) if self.caption(name, number, key)]
            found = sample.captions[f"syn_text_{name}"], sample.caption_embs[f"syn_text_{name}"]
            if written:
                assert found[0] == [self.caption(name, number, key) for number in written]
                assert torch.equal(found[1], torch.stack([self.embedding(f"{name} {n}", key) for n in written]))
            else:
                assert found[0] == [f"real {key}"] and torch.equal(found[1], self.embedding("real", key)[None])


def reasons(skipped: pa.Table) -> dict[str, tuple[str, str]]:
    return {row["key"]: (row["reason"], row["detail"]) for row in skipped.to_pylist()}


@pytest.mark.parametrize("storage", ["pth.gz", "npz"])
def test_every_sample_is_joined_with_its_own_rows(tmp_path, monkeypatch, storage):
    """The shard has several row groups, so the test covers later row groups too."""
    monkeypatch.setattr(sidecar, "ROW_GROUP", 3)
    shard = Shard(tmp_path)
    skipped, samples = shard.join(storage=storage)
    assert list(samples) == shard.keys and len(samples) == 7 and skipped.num_rows == 0
    for sample in samples.values():
        shard.expect(sample)
        assert sample.extension == "png" and len(sample.views) == VIEWS
    second = samples[shard.keys[3]]
    assert second.url == "http://x/folder.v1/0003" and samples[shard.keys[2]].url is None
    assert second.rest == {
        "uid": "u3",
        "caption": "x",
        "image_sha256": hashlib.sha256(second.image or b"").hexdigest(),
        "teachers": [{"name": "large", "dim": 6}, {"name": "small", "dim": 4}],
    }


def test_stored_parameters_replay_the_embedded_view(tmp_path):
    shard = Shard(tmp_path)
    shard.join()
    with (tmp_path / "out.tar").open("rb") as file:
        members = [sample.members for sample in read_samples(file, "out.tar")]
    for key, found in zip(shard.keys, members, strict=True):
        assert json.loads(found["paug.json"])["param_aug"] == [shard.view(n, key).to_list() for n in range(VIEWS)]
        for number, view in enumerate(decode(found, key, "out.tar").views):
            before = render(decode_image(shard.images[key]), shard.view(number, key), 24)
            assert render(decode_image(found["png"]), view, 24).tobytes() == before.tobytes()


def test_swapping_or_adding_a_teacher_does_not_change_the_others(tmp_path):
    first, swapped, added = (
        Shard(tmp_path / name, teachers=teachers)
        for name, teachers in [
            ("first", {"large": 6, "small": 4}),
            ("swapped", {"large": 6, "better": 5}),
            ("added", {"large": 6, "small": 4, "better": 5}),
        ]
    )
    samples = [shard.join()[1] for shard in (first, swapped, added)]
    for one, two, three in zip(*(found.values() for found in samples), strict=True):
        assert one.views == two.views == three.views and one.captions == two.captions == three.captions
        assert torch.equal(one.image_emb[:, :6], two.image_emb[:, :6])
        assert torch.equal(one.image_emb, three.image_emb[:, :10])
        assert torch.equal(two.text_emb[:, 6:], three.text_emb[:, 10:])


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_order_and_gaps_of_sidecars_do_not_shift_other_samples(tmp_path_factory, data):
    shard = Shard(tmp_path_factory.mktemp("shard"))
    gone = set()
    for path in data.draw(st.lists(st.sampled_from(shard.side_files()), unique=True, max_size=6)):
        rows = data.draw(st.permutations(range(7)))[: data.draw(st.integers(4, 7))]
        shard.take(path, rows)
        gone |= {key for row, key in enumerate(shard.keys) if row not in rows}
    skipped, samples = shard.join()
    assert list(samples) == [key for key in shard.keys if key not in gone]
    assert set(reasons(skipped)) == gone and len(samples) == 7 - len(gone)
    for sample in samples.values():
        shard.expect(sample)


def test_reordered_sidecars_give_the_same_bytes(tmp_path):
    one, two = Shard(tmp_path / "one"), Shard(tmp_path / "two")
    for path in two.side_files():
        two.take(path, [6, 2, 0, 1, 5, 3, 4])
    one.join()
    two.join()
    one.join(tmp_path / "again.tar")
    whole = (tmp_path / "one/out.tar").read_bytes()
    assert whole == (tmp_path / "two/out.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()


def test_a_missing_row_is_reported_with_its_sidecar(tmp_path):
    shard = Shard(tmp_path)
    keys = shard.keys
    small = shard.files("small")
    shard.without(shard.views[1], keys[0])
    shard.without(shard.captions["coca"][1], keys[1])
    shard.without(shard.files("large").image[1], keys[2])
    shard.without(small.text, keys[3])
    shard.without(small.captions["coca"][1], keys[4])
    skipped, samples = shard.join()
    assert list(samples) == keys[5:]
    assert reasons(skipped) == {
        keys[0]: ("missing-view", "view-1.parquet has no row for it"),
        keys[1]: ("missing-caption", "coca-1.parquet has no row for it"),
        keys[2]: ("missing-embedding", "teacher 'large', view 1: the side file has no row for it"),
        keys[3]: ("missing-embedding", "teacher 'small', caption: the side file has no row for it"),
        keys[4]: ("missing-embedding", "teacher 'small', caption 1 of 'coca': the side file has no row for it"),
    }


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 3.0])
def test_a_failed_embedding_is_left_out_and_counted(tmp_path, value):
    shard = Shard(tmp_path)
    path = shard.files("small").text
    rows = torch.stack([vector(4, "small", "real", key) for key in shard.keys])
    rows[2] = value
    path.write_bytes(sidecar.to_bytes(sidecar.embeddings_table(shard.keys, rows)))
    skipped, samples = shard.join()
    assert list(reasons(skipped)) == [shard.keys[2]] and len(samples) == 6
    reason, detail = reasons(skipped)[shard.keys[2]]
    assert reason == "bad-embedding" and detail.startswith("teacher 'small', caption: its length is ")
    for sample in samples.values():
        shard.expect(sample)


@pytest.mark.parametrize(("length", "kept"), [(0.985, True), (1.015, True), (0.97, False), (1.03, False)])
def test_an_embedding_has_length_one_up_to_rounding(tmp_path, length, kept):
    shard = Shard(tmp_path)
    rows = torch.stack([vector(4, "small", "real", key) for key in shard.keys]).float()
    rows[2] = length * rows[2] / rows[2].norm()
    shard.files("small").text.write_bytes(sidecar.to_bytes(sidecar.embeddings_table(shard.keys, rows)))
    assert (shard.keys[2] in shard.join()[1]) is kept


@pytest.mark.parametrize("content", [b"[1]", b"{", b"[" * 100_000, b'{"a":' * 950 + b"1" + b"}" * 950])
def test_an_unusable_json_of_the_source_is_left_out(tmp_path, content):
    shard = Shard(tmp_path)
    with TarWriter(shard.source) as writer:
        for key in shard.keys:
            writer.write(key, {"png": shard.images[key], "txt": b"x", "json": content})
    _, samples = shard.join()
    assert {tuple(sample.rest) for sample in samples.values()} == {("image_sha256", "teachers")}


@pytest.mark.parametrize("view", ["[[0, 0, 31, 10], null]", "[[0, 31, 10, 10], null]", "[0]", "{", "[" * 100_000])
def test_an_invalid_view_is_left_out(tmp_path, view):
    shard = Shard(tmp_path)
    views = [shard.view(0, key).to_json() for key in shard.keys]
    views[4] = view
    shard.views[0].write_bytes(sidecar.to_bytes(pa.table([shard.keys, views], schema=sidecar.VIEWS)))
    skipped, samples = shard.join()
    assert {key: reason for key, (reason, _) in reasons(skipped).items()} == {shard.keys[4]: "bad-view"}
    assert len(samples) == 6


@pytest.mark.parametrize("embedded", ["no row", "zero", "something"])
def test_a_failed_caption_is_dropped_with_its_embedding(tmp_path, embedded):
    failed = [("coca", 0, KEYS[1]), ("coca", 0, KEYS[2]), ("coca", 1, KEYS[2]), ("other", 0, KEYS[3])]
    shard = Shard(tmp_path, empty=set(failed))
    for name, number, key in shard.empty:
        for teacher in shard.teachers:
            path = shard.files(teacher).captions[name][number]
            names, bits = sidecar.read_embeddings(path)
            if embedded == "zero":
                bits = bits.copy()
                bits[names.index(key)] = 0
                path.write_bytes(sidecar.to_bytes(sidecar.embeddings_table(names, bits)))
            elif embedded == "no row":
                rows = [row for row, other in enumerate(names) if other != key]
                path.write_bytes(sidecar.to_bytes(sidecar.read(path).take(rows)))
    skipped, samples = shard.join()
    assert len(samples) == 7 and skipped.num_rows == 0
    assert samples[KEYS[1]].captions["syn_text_coca"] == [f"coca 1 of {KEYS[1]}"]
    assert samples[KEYS[2]].captions["syn_text_coca"] == [f"real {KEYS[2]}"]
    assert not any(text == "" for sample in samples.values() for texts in sample.captions.values() for text in texts)
    for sample in samples.values():
        shard.expect(sample)


def test_without_images_only_the_reinforcement_is_written(tmp_path):
    shard = Shard(tmp_path)
    _, samples = shard.join(images=False)
    assert all(sample.image is None for sample in samples.values())
    for sample in samples.values():
        shard.expect(sample)
        assert sample.rest["image_sha256"] == hashlib.sha256(shard.images[sample.key]).hexdigest()


def transparent(key: str) -> bytes:
    image = Image.open(io.BytesIO(pixels(key))).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def test_a_transparent_image_is_stored_as_an_opaque_copy(tmp_path):
    key = KEYS[2]
    shard = Shard(tmp_path, images={key: transparent(key)})
    _, samples = shard.join()
    seen = decode_image(shard.images[key])  # the teachers' input
    stored = samples[key].image
    assert stored is not None and samples[key].extension == "png"
    released = Image.open(io.BytesIO(stored)).convert("RGB")
    assert released.tobytes() == decode_image(stored).tobytes() == seen.tobytes()
    assert Image.open(io.BytesIO(shard.images[key])).convert("RGB").tobytes() != seen.tobytes()
    assert samples[key].rest["image_sha256"] == hashlib.sha256(stored).hexdigest()
    assert all(samples[other].image == shard.images[other] for other in KEYS if other != key)
    # Without images, the reader takes the source's image. decode() blends it in the same way.
    _, samples = shard.join(images=False)
    assert samples[key].image is None
    assert samples[key].rest["image_sha256"] == hashlib.sha256(shard.images[key]).hexdigest()


def test_both_storages_hold_the_bf16_numbers_of_the_sidecars(tmp_path):
    shard = Shard(tmp_path)
    for storage, dtype in (("pth.gz", torch.bfloat16), ("npz", torch.float32)):
        _, samples = shard.join(storage=storage)
        for sample in samples.values():
            for rows in (sample.image_emb, sample.text_emb, *sample.caption_embs.values()):
                assert rows.dtype == dtype and torch.equal(rows.bfloat16().float(), rows.float())


def test_a_dataset_with_only_real_captions(tmp_path):
    shard = Shard(tmp_path)
    out = tmp_path / "out.tar"
    teacher = TeacherFiles("large", shard.files("large").image, shard.files("large").text)
    with shard.source.open("rb") as source:
        count, _ = join_shard(source, tmp_path / "raw.parquet", shard.views, {}, [teacher], out)
    with out.open("rb") as file:
        samples = [decode(sample.members, sample.key, "out.tar") for sample in read_samples(file, "out.tar")]
    assert count == len(samples) == 7 and all(sample.captions == {} for sample in samples)


def test_a_sidecar_of_another_shard_is_refused(tmp_path):
    shard = Shard(tmp_path)
    path = shard.files("large").image[0]
    names = [*shard.keys[:-1], "stranger"]
    path.write_bytes(
        sidecar.to_bytes(sidecar.embeddings_table(names, torch.stack([vector(6, name) for name in names])))
    )
    with pytest.raises(DamagedOutput, match=f"{path}: sample 'stranger' and 0 more are not in the shard"):
        shard.join()
    assert not (tmp_path / "out.tar").exists()


def test_a_key_that_occurs_twice_is_refused(tmp_path):
    for name in ("view-0.parquet", "coca-1.parquet", "small/text.parquet"):
        shard = Shard(tmp_path)
        path = tmp_path / name
        shard.take(path, [0, 1, 2, 1])
        with pytest.raises(DamagedOutput, match=f"{path}: sample '{shard.keys[1]}' occurs twice"):
            shard.join()


def test_dimensions_of_one_teacher_must_agree(tmp_path):
    shard = Shard(tmp_path)
    path = shard.files("small").image[1]
    rows = torch.stack([vector(5, key) for key in shard.keys])
    path.write_bytes(sidecar.to_bytes(sidecar.embeddings_table(shard.keys, rows)))
    with pytest.raises(DamagedOutput, match=f"{path}: embeddings have 5 numbers, but 4 in .*text.parquet"):
        shard.join()


def test_a_missing_sidecar_is_reported(tmp_path):
    shard = Shard(tmp_path)
    shard.files("large").image[1].unlink()
    with pytest.raises(DamagedOutput, match=str(shard.files("large").image[1])):
        shard.join()
    assert not (tmp_path / "out.tar").exists()


def test_a_source_that_changed_since_it_was_validated_is_refused(tmp_path):
    shard = Shard(tmp_path)
    with TarWriter(shard.source) as writer:
        for key in shard.keys:
            writer.write(key, {"png": pixels("other" if key.endswith("5") else key), "txt": b"x"})
    with pytest.raises(ShardError, match=r"folder\.v1/0005\.png' has changed since it was validated"):
        shard.join()
    with TarWriter(shard.source) as writer:
        writer.write(shard.keys[0], {"png": shard.images[shard.keys[0]], "txt": b"x"})
    with pytest.raises(ShardError, match=r"sample 'folder\.v1/0001' is gone"):
        shard.join()
    shard.source.unlink()
    assert {path.suffix for path in tmp_path.iterdir()} == {"", ".parquet"}


def test_teachers_must_be_complete_and_have_unique_names(tmp_path):
    shard = Shard(tmp_path)
    large = shard.files("large")
    short = TeacherFiles("short", large.image[:1], large.text, large.captions)
    deaf = TeacherFiles("deaf", large.image, large.text, {"coca": large.captions["coca"]})
    for teachers, message in [
        ([large, large], "unique teacher names"),
        ([], "a teacher and unique teacher names"),
        ([large, short], "teacher 'short' has embeddings of 1 views"),
        ([deaf], "teacher 'deaf' has embeddings of 2 views and captions {'coca': 2}"),
    ]:
        with shard.source.open("rb") as source, pytest.raises(ValueError, match=message):
            join_shard(source, tmp_path / "raw.parquet", shard.views, shard.captions, teachers, tmp_path / "out.tar")


def test_memory_does_not_grow_with_the_shard(tmp_path):
    keys = [f"{number:04d}" for number in range(120)]
    noise = np.random.default_rng(0)
    images = {key: b"\xff\xd8" + noise.bytes(60_000) for key in keys}
    with TarWriter(tmp_path / "s.tar") as writer:
        for key in keys:
            writer.write(key, {"jpg": images[key], "txt": b"x"})
    raw = {"caption": "x", "width": 9, "height": 9, "image": "jpg", "url": None}
    rows = [{"key": key, "sha256": hashlib.sha256(images[key]).hexdigest(), **raw} for key in keys]
    (tmp_path / "raw.parquet").write_bytes(sidecar.to_bytes(pa.Table.from_pylist(rows, KEPT)))
    views = ["[[0, 0, 9, 9], null]"] * len(keys)
    (tmp_path / "v.parquet").write_bytes(sidecar.to_bytes(pa.table([keys, views], schema=sidecar.VIEWS)))
    embeddings = torch.stack([vector(8, key) for key in keys])
    (tmp_path / "e.parquet").write_bytes(sidecar.to_bytes(sidecar.embeddings_table(keys, embeddings)))
    images.clear()
    teacher = TeacherFiles("t", [tmp_path / "e.parquet"], tmp_path / "e.parquet")
    tracemalloc.start()
    try:
        with (tmp_path / "s.tar").open("rb") as source:
            join_shard(source, tmp_path / "raw.parquet", [tmp_path / "v.parquet"], {}, [teacher], tmp_path / "o.tar")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "o.tar").stat().st_size > 7_000_000 and peak < 2_000_000


def test_a_full_disk_leaves_no_shard(tmp_path, monkeypatch):
    shard = Shard(tmp_path)
    written = TarWriter.write

    def full(self, key, members):
        if key == shard.keys[3]:
            raise OSError(28, "No space left on device")
        written(self, key, members)

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(TarWriter, "write", full)
    with pytest.raises(StoreError, match=r"out\.tar: the disk is full"):
        shard.join()
    assert sorted(tmp_path.iterdir()) == before
