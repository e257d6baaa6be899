"""Training samples are pure functions of (seed, epoch, index) and contain the stored values."""

import hashlib
import io
import json
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from mobileclip2.config.augmentation import EARLIER_RENDERING, RELEASED_RENDERING, Augmentation
from mobileclip2.data.augmentation import View, render, sample_view
from mobileclip2.data.image import decode as decode_image
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.data.reinforced_format import ReinforcedSample, encode
from mobileclip2.data.tar import TarWriter
from mobileclip2.data.validate import KEPT
from mobileclip2.errors import ShardError, UserError
from mobileclip2.training import data
from mobileclip2.training.data import KEYS, FeatureSource, RawSource, ReinforcedSource
from mobileclip2.training.views import render_view
from tests.processes import FORKSERVER

PREPROCESS = Preprocess(16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
VIEWS, DIM = 3, 8
FIELDS = {"syn_text_coca": 2, "syn_text_other": 1}


def tokenize(texts):
    """Return the code points as tokens, so that each text has its own tokens."""
    return torch.tensor([[ord(letter) for letter in text.ljust(40)[:40]] for text in texts])


def words(tokens: torch.Tensor) -> str:
    return "".join(map(chr, tokens.tolist())).rstrip()


def pixels(key: str, form: str = "PNG") -> bytes:
    values = np.frombuffer(hashlib.shake_128(key.encode()).digest(40 * 30 * 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(values.reshape(30, 40, 3)).save(target, form)
    return target.getvalue()


def drawn(key: str, view: View) -> torch.Tensor:
    return render_view(decode_image(pixels(key)), view, 16, translation="pixels")


def vector(*about: object) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(repr(about).encode()).digest()[:7], "big")
    return torch.nn.functional.normalize(
        torch.randn(DIM, generator=torch.Generator().manual_seed(seed)), dim=0
    ).bfloat16()


def rows(count: int, *about: object) -> torch.Tensor:
    return torch.stack([vector(*about, number) for number in range(count)])


def reinforced(key: str, **changed) -> ReinforcedSample:
    image = pixels(key)
    values = {
        "caption": f"real {key}",
        "views": [sample_view(Augmentation(), 1, key, view, 40, 30) for view in range(VIEWS)],
        "captions": {name: [f"{name} {n} {key}" for n in range(count)] for name, count in FIELDS.items()},
        "image_emb": rows(VIEWS, key, "view"),
        "text_emb": rows(1, key, "real"),
        "caption_embs": {name: rows(count, key, name) for name, count in FIELDS.items()},
        "image": image,
        "extension": "png",
        "rest": {"image_sha256": hashlib.sha256(image).hexdigest()},
    }
    return ReinforcedSample(key, **{**values, **changed})


def write(path: Path, samples: list[ReinforcedSample], storage="pth.gz") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(path) as writer:
        for sample in samples:
            writer.write(sample.key, encode(sample, storage))
    return path


def shards(folder: Path, sizes=(4, 1, 6), **changed) -> list[Path]:
    """Write tars with the same file name to different folders."""
    return [
        write(folder / str(number) / "00000.tar", [reinforced(f"{number}-{n}", **changed) for n in range(size)])
        for number, size in enumerate(sizes)
    ]


def source(paths: list[Path], **options) -> ReinforcedSource:
    return ReinforcedSource(paths, tokenize, PREPROCESS, **{"seed": 3, **options})


def seen(reader, epoch: int) -> list[int]:
    return [index for some in reader.order(epoch) for index in some.tolist()]


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


def test_a_sample_has_a_stored_view_captions_and_their_embeddings(tmp_path):
    reader = source(shards(tmp_path))
    keys = [f"{number}-{n}" for number, size in enumerate((4, 1, 6)) for n in range(size)]
    counts = Counter()
    for epoch in range(12):
        for index, key in enumerate(keys):
            found = reader.sample(epoch, index)
            assert list(found) == list(KEYS)
            view = next(n for n in range(VIEWS) if torch.equal(found["teacher_image"], vector(key, "view", n).float()))
            stored = sample_view(Augmentation(), 1, key, view, 40, 30)
            expected = drawn(key, stored)
            assert torch.equal(found["image"], expected) and expected.shape == (16, 16, 3)
            assert words(found["text"]) == f"real {key}" and found["text"].dtype == torch.int64
            assert torch.equal(found["teacher_text"], vector(key, "real", 0).float())
            field, number, of = words(found["synthetic_text"]).split()
            assert of == key
            assert torch.equal(found["teacher_synthetic_text"], vector(key, field, int(number)).float())
            counts[view] += 1
            counts[field] += 1
    assert min(counts[view] for view in range(VIEWS)) > 25
    assert abs(counts["syn_text_coca"] - counts["syn_text_other"]) < 40


def test_the_older_layout_and_npz_give_the_same_samples(tmp_path):
    new = source(shards(tmp_path / "new", captions={"syn_text": ["a", "b"]}, caption_embs={"syn_text": rows(2, "c")}))
    paths = []
    for number, path in enumerate(shards(tmp_path / "old")):
        paths.append(path)
        with TarWriter(path) as writer:
            for n in range((4, 1, 6)[number]):
                sample = reinforced(f"{number}-{n}", captions={}, caption_embs={})
                members = encode(sample, "npz") | {"syn.json": b'{"syn_text": ["a", "b"]}'}
                members["paug.json"] = json.dumps(
                    {"param_aug": json.dumps([v.to_list() for v in sample.views])}
                ).encode()
                buffer = io.BytesIO()
                joined = torch.cat([sample.text_emb, rows(2, "c")]).float().numpy()
                np.savez(buffer, image_emb=sample.image_emb.float().numpy(), text_emb=joined)
                writer.write(sample.key, {**members, "npz": buffer.getvalue()})
    old = source(paths)
    for index in range(11):
        assert equal(old.sample(1, index), new.sample(1, index))


def test_samples_do_not_depend_on_workers_order_or_process(tmp_path):
    reader = source(shards(tmp_path))

    def epoch(workers: int) -> list[dict[str, torch.Tensor]]:
        places = [(1, index) for index in seen(reader, 1)]
        context = FORKSERVER if workers else None
        loader = DataLoader(
            _Dataset(reader), sampler=places, batch_size=4, num_workers=workers, multiprocessing_context=context
        )
        return list(loader)

    one, two = epoch(0), epoch(2)
    assert len(one) == len(two) == 3 and all(equal(first, second) for first, second in zip(one, two, strict=True))
    backwards = {index: reader.sample(1, index) for index in reversed(range(11))}
    again = pickle.loads(pickle.dumps(reader))  # noqa: S301
    assert all(equal(again.sample(1, index), backwards[index]) for index in range(11))
    assert seen(again, 5) == seen(reader, 5)


class _Dataset(torch.utils.data.Dataset):
    def __init__(self, reader):
        self.reader = reader

    def __getitem__(self, place):
        return self.reader.sample(*place)


def test_epochs_and_seeds_differ(tmp_path):
    paths = shards(tmp_path)
    first, other = source(paths), source(paths, seed=4)
    assert seen(first, 0) != seen(first, 1) and seen(first, 0) != seen(other, 0)
    drawn = [
        [words(reader.sample(epoch, index)["synthetic_text"]) for index in range(11)]
        for reader, epoch in [(first, 0), (first, 1), (other, 0)]
    ]
    assert drawn[0] != drawn[1] and drawn[0] != drawn[2]


class Sized(data.SampleSource):
    def sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        return {}


@given(st.lists(st.integers(0, 7), max_size=40), st.integers(0, 99), st.integers(0, 99))
def test_an_order_has_every_sample_once_and_few_shards_at_a_time(sizes, seed, epoch):
    rows = Sized(sizes, seed=seed)
    parts = list(rows.order(epoch))
    order = np.concatenate([np.empty(0, np.int64), *parts])
    assert order.dtype == np.int64 and sorted(order) == list(range(sum(sizes))) and len(rows) == sum(sizes)
    assert all(map(np.array_equal, parts, rows.order(epoch)))
    assert all(len({rows.locate(int(index))[0] for index in part}) <= data.MIXED_SHARDS for part in parts)
    visited = [rows.locate(int(index))[0] for index in order]
    for shard in set(visited):
        first, last = visited.index(shard), len(visited) - 1 - visited[::-1].index(shard)
        assert len(set(visited[first : last + 1])) <= data.MIXED_SHARDS


@given(st.lists(st.integers(0, 7), max_size=40), st.integers(0, 99), st.integers(0, 99))
def test_an_epoch_with_replacement_has_the_same_number_of_samples(sizes, seed, epoch):
    rows = Sized(sizes, seed=seed, with_replacement=True)
    order = np.concatenate([np.empty(0, np.int64), *rows.order(epoch)])
    assert len(order) == sum(sizes) and set(order) <= set(range(sum(sizes)))


def test_sampling_with_replacement_repeats_some_shards_and_omits_others(tmp_path):
    rows = Sized([10] * 100, seed=0, with_replacement=True)
    drawn = Counter(int(index) for part in rows.order(0) for index in part)
    assert max(drawn.values()) > 1 and 500 < len(drawn) < 750  # about 1 - 1/e of all samples
    paths = shards(tmp_path)
    orders = [np.concatenate(list(source(paths, with_replacement=each).order(0))) for each in (False, True)]
    assert sorted(orders[0]) == list(range(11)) and sorted(orders[1]) != list(range(11))


def test_the_index_skips_empty_shards():
    rows = Sized([0, 2, 0, 0, 1], seed=0)
    assert [rows.locate(index) for index in range(3)] == [(1, 0), (1, 1), (4, 0)]


@pytest.mark.parametrize("captions", ["^syn_text_other$", "syn_text_o"])
def test_captions_are_drawn_from_the_chosen_captioners(tmp_path, captions):
    reader = source(shards(tmp_path), captions=captions)
    assert {words(reader.sample(epoch, 0)["synthetic_text"]) for epoch in range(9)} == {"syn_text_other 0 0-0"}


def test_without_teacher_image_an_image_gets_a_new_view_each_epoch(tmp_path):
    weak = Augmentation(scale=(0.9, 1.0), randaugment=None)
    needs = ("image", "text", "synthetic_text")
    reader = source(shards(tmp_path), needs=needs, augmentation=weak)
    seen_crops = set()
    for epoch in range(3):
        for index in range(len(reader)):
            key = words(reader.sample(epoch, index)["text"]).rsplit(" ", 1)[-1]
            view = sample_view(weak, reader._seed, key, epoch, 40, 30)
            assert torch.equal(reader.sample(epoch, index)["image"], drawn(key, view))
            seen_crops.add(view.crop)
    assert len(seen_crops) > len(reader)
    with pytest.raises(UserError, match="a stored embedding belongs to a stored view"):
        source(shards(tmp_path / "again"), augmentation=weak)


def test_a_captioner_tag_without_a_match_is_an_early_error(tmp_path):
    paths = shards(tmp_path)
    with pytest.raises(UserError, match=r"00000\.tar: sample '0-0': no synthetic caption matches 'dfn'") as caught:
        source(paths, captions="dfn")
    assert "'syn_text_coca' (2), 'syn_text_other' (1)" in str(caught.value)
    with pytest.raises(UserError, match="is not a regular expression"):
        source(paths, captions="(")
    write(
        paths[2],
        [reinforced("2-0", captions={"syn_text_coca": []}, caption_embs={"syn_text_coca": rows(0 + 1, "x")[:0]})],
    )
    with pytest.raises(UserError, match=r"2/00000\.tar: sample '2-0': no synthetic caption"):
        source(paths).sample(0, 5)


def test_synthetic_captions_are_only_required_if_training_needs_them(tmp_path):
    paths = shards(tmp_path, captions={}, caption_embs={})
    reader = source(paths, needs=("image", "text", "teacher_image", "teacher_text"))
    assert list(reader.sample(0, 3)) == ["image", "text", "teacher_image", "teacher_text"]
    with pytest.raises(UserError, match="no synthetic caption"):
        source(paths)
    with pytest.raises(UserError, match="unknown keys pictures"):
        source(paths, needs=("pictures",))


def test_images_in_the_source_shards_are_found_by_key(tmp_path):
    whole = source(shards(tmp_path / "whole"))
    paths = shards(tmp_path / "light", image=None, extension="jpg")
    originals = []
    for number, size in enumerate((4, 1, 6)):
        originals.append(tmp_path / f"raw-{number}.tar")
        with TarWriter(originals[-1]) as writer:
            for n in reversed(range(size + 2)):
                writer.write(f"{number}-{n}", {"txt": b"x", "png": pixels(f"{number}-{n}")})
    light = source(paths, images=originals)
    assert all(equal(light.sample(2, index), whole.sample(2, index)) for index in range(11))
    with pytest.raises(UserError, match=r"sample '0-0': has no image.*pass the source shards"):
        source(paths)
    with TarWriter(originals[2]) as writer:
        for n in range(6):
            writer.write(f"2-{n}", {"png": pixels("2-0" if n == 3 else f"2-{n}")})
    changed = source(paths, images=originals)
    with pytest.raises(ShardError, match=r"sample '2-3': the image in .*raw-2\.tar differs"):
        changed.sample(0, 8)
    with TarWriter(originals[2]) as writer:
        writer.write("2-0", {"png": pixels("2-0")})
    with pytest.raises(ShardError, match=r"raw-2\.tar: sample '2-1' is gone"):
        source(paths, images=originals)


def test_errors_name_the_shard_and_the_sample(tmp_path):
    def reading(sample: ReinforcedSample) -> str:
        paths = [*shards(tmp_path, (1,)), write(tmp_path / "bad.tar", [sample])]
        with pytest.raises(ShardError) as caught:
            source(paths).sample(0, 1)
        return str(caught.value)

    start = re.escape(f"{tmp_path}/bad.tar: sample 'x'")
    resized = io.BytesIO()
    Image.new("RGB", (4, 4)).save(resized, "PNG")
    assert re.match(f"{start}: the crop .* does not fit", reading(reinforced("x", image=resized.getvalue())))
    assert re.match(f"{start}: truncated-image", reading(reinforced("x", image=pixels("x", "JPEG")[:900])))
    narrow = {
        "image_emb": rows(VIEWS, "x")[:, :4],
        "text_emb": rows(1, "x")[:, :4],
        "caption_embs": {name: rows(count, "x")[:, :4] for name, count in FIELDS.items()},
    }
    assert re.match(
        f"{start}: embeddings have 4 dimensions, but other samples have 8", reading(reinforced("x", **narrow))
    )


def test_the_dimension_is_reported_and_zero_shards_are_allowed(tmp_path):
    assert source(shards(tmp_path)).dim == DIM
    assert source([]).dim == 0 and len(source([])) == 0 and not seen(source([]), 0)


def raw_shard(folder: Path, name: str, size: int) -> tuple[Path, pa.Table]:
    path = folder / f"{name}.tar"
    with TarWriter(path) as writer:
        for number in range(size):
            writer.write(f"{name}-{number}", {"webp": b"not this", "png": pixels(f"{name}-{number}"), "txt": b"old"})
    kept = [
        {
            "key": f"{name}-{number}",
            "caption": f"caption {name}-{number}",
            "width": 40,
            "height": 30,
            "image": "png",
            "sha256": hashlib.sha256(pixels(f"{name}-{number}")).hexdigest(),
            "url": None,
        }
        for number in range(0, size, 2)
    ]
    return path, pa.Table.from_pylist(kept, KEPT)


def test_raw_pairs_get_a_fresh_view_each_epoch(tmp_path):
    pairs = [raw_shard(tmp_path, "a", 5), raw_shard(tmp_path, "b", 3)]
    reader = RawSource(pairs, tokenize, PREPROCESS, seed=9, augmentation=Augmentation())
    keys = ["a-0", "a-2", "a-4", "b-0", "b-2"]
    assert sorted(seen(reader, 0)) == [0, 1, 2, 3, 4] and len(reader) == 5
    for epoch in range(3):
        for index, key in enumerate(keys):
            found = reader.sample(epoch, index)
            view = sample_view(Augmentation(), 9, key, epoch, 40, 30)
            assert torch.equal(found["image"], drawn(key, view))
            assert words(found["text"]) == f"caption {key}" and list(found) == ["image", "text"]
    again = pickle.loads(pickle.dumps(reader))  # noqa: S301
    assert equal(again.sample(1, 4), reader.sample(1, 4))


def photo() -> Image.Image:
    """Return a smooth image on which all resize implementations agree to one or two levels."""
    down, across = np.mgrid[:300, :400]
    waves = [np.sin(down / 31 + color) + np.cos(across / 23 - color) for color in range(3)]
    return Image.fromarray((np.stack(waves, 2) * 60 + 128).astype(np.uint8))


def released_view(image: Image.Image, view: View) -> Image.Image:
    """Render a view as the released training does for a 256-pixel student, without this project's code."""
    top, left, height, width = view.crop
    image = image.crop((left, top, left + width, top + height)).resize((256, 256), Image.Resampling.BICUBIC)
    for op, magnitude in view.ops or ():
        moved = Image.new("RGB", (256, 256))
        if op == 3:  # TranslateX
            moved.paste(image, (int(magnitude), 0))
            image = moved
        elif op == 4:  # TranslateY
            moved.paste(image, (0, int(magnitude)))
            image = moved
        elif op == 6:  # Brightness
            image = Image.blend(Image.new("RGB", (256, 256)), image, 1 + magnitude)
        elif op == 11:  # Solarize
            image = image.point(lambda level, at=magnitude: level if level < at else 255 - level)
        else:
            assert op == 0
    return image


REPLAYED = [
    View((0, 0, 300, 400), ((3, 60.81), (0, 0.0))),
    View((20, 30, 210, 250), ((4, -30.45), (3, -30.45))),
    View((20, 30, 210, 250), ((6, -0.27), (4, 45.6))),
    View((40, 10, 200, 240), ((3, 30.45), (11, 178.5))),
    View((40, 10, 200, 240), None),
]


@pytest.mark.parametrize("view", REPLAYED)
@pytest.mark.parametrize("kind", ["reinforced", "raw"])
def test_a_256_pixel_student_sees_the_views_of_the_released_training(tmp_path, monkeypatch, view, kind):
    image, file = photo(), io.BytesIO()
    image.save(file, "PNG")
    student = Preprocess(256, interpolation="bilinear")  # the preprocessing of MobileCLIP2-S0 in evaluation
    if kind == "reinforced":
        sample = reinforced("a-0", image=file.getvalue(), views=[view], image_emb=rows(1, "view"))
        reader = ReinforcedSource([write(tmp_path / "a.tar", [sample])], tokenize, student, seed=0)
    else:
        monkeypatch.setattr(data, "sample_view", lambda *_: view)
        monkeypatch.setattr(data._RawShard, "sample", lambda *_: ("a-0", "caption", file.getvalue()))
        pairs = [raw_shard(tmp_path, "a", 1)]
        reader = RawSource(pairs, tokenize, student, seed=0, augmentation=Augmentation())
    released = np.asarray(released_view(image, view)).astype(int)
    found = reader.sample(0, 0)["image"].numpy().astype(int)
    # rounding by one level moves a few pixels across the threshold of Solarize
    assert (np.abs(found - released) > 2).mean() < (0.01 if view.ops and view.ops[1][0] == 11 else 1e-9)
    assert np.array_equal(np.asarray(render(image, view, 256, "bicubic", "pixels")), released)
    earlier = render_view(image, view, 256, "bilinear", "scaled").numpy().astype(int)
    if view.ops and view.ops[0][0] != 0:
        assert (np.abs(earlier - released) > 2).mean() > 0.01


def test_the_earlier_rendering_is_a_setting(tmp_path):
    view = View((0, 0, 30, 40), ((3, 60.81), (0, 0.0)))
    sample = reinforced("a-0", views=[view], image_emb=rows(1, "view"))
    paths, student = [write(tmp_path / "a.tar", [sample])], Preprocess(64, interpolation="bilinear")
    image = decode_image(pixels("a-0"))
    for rendering in (EARLIER_RENDERING, RELEASED_RENDERING):
        found = ReinforcedSource(paths, tokenize, student, seed=0, rendering=rendering).sample(0, 0)["image"]
        interpolation = "bilinear" if rendering == EARLIER_RENDERING else "bicubic"
        assert torch.equal(found, render_view(image, view, 64, interpolation, rendering.translation))
        moved = 17 if rendering == EARLIER_RENDERING else 60  # 60.81 of 224 pixels are 17.4 of 64
        assert not found[:, :moved].any() and found[:, moved:].any(2).float().mean() > 0.9


def test_without_augmentation_raw_pairs_show_the_whole_image(tmp_path):
    reader = RawSource([raw_shard(tmp_path, "a", 3)], tokenize, PREPROCESS, seed=0)
    expected = PREPROCESS.whole(decode_image(pixels("a-2")))
    for epoch in (0, 7):
        assert torch.equal(reader.prepare(reader.sample(epoch, 1)["image"][None])[0], expected)


def test_a_missing_or_changed_sample_is_reported(tmp_path):
    path, table = raw_shard(tmp_path, "a", 3)
    with TarWriter(path) as writer:
        writer.write("a-0", {"png": pixels("a-0")})
    with pytest.raises(ShardError, match=r"a\.tar: sample 'a-2' is gone"):
        RawSource([(path, table)], tokenize, PREPROCESS, seed=0)
    with TarWriter(path) as writer:
        writer.write("a-0", {"png": pixels("a-0")[:400]})
        writer.write("a-2", {"jpg": pixels("a-2")})
    reader = RawSource([(path, table)], tokenize, PREPROCESS, seed=0)
    for index in range(2):
        with pytest.raises(ShardError, match=rf"a\.tar: 'a-{2 * index}\.png' has changed since it was validated"):
            reader.sample(0, index)


def test_an_image_replaced_after_validation_is_rejected(tmp_path):
    path, table = raw_shard(tmp_path, "a", 3)
    reader = RawSource([(path, table)], tokenize, PREPROCESS, seed=0)
    reader.sample(0, 0)
    data = path.read_bytes()
    one, other = pixels("a-0"), pixels("a-2")
    assert len(one) == len(other) and one != other
    with path.open("r+b") as file:  # same inode, size and names
        file.seek(data.index(one))
        file.write(other)
    with pytest.raises(ShardError, match=r"a\.tar: 'a-0\.png' has changed since it was validated"):
        reader.sample(1, 0)
    reader.sample(1, 1)


def test_features_are_paired_and_one_of_several_texts_is_drawn():
    images = torch.arange(6.0).reshape(3, 2)
    texts = [torch.tensor([[10], [11]]), torch.tensor([[20]]), torch.tensor([[30], [31], [32]])]
    reader = FeatureSource(images, texts, seed=1)
    assert sorted(seen(reader, 4)) == [0, 1, 2]
    drawn = [set(), set(), set()]
    for epoch in range(40):
        for index in range(3):
            found = reader.sample(epoch, index)
            assert torch.equal(found["image"], images[index])
            drawn[index].add(int(found["text"]))
    assert drawn == [{10, 11}, {20}, {30, 31, 32}]
    assert torch.equal(FeatureSource(images, images, seed=1).sample(0, 2)["text"], images[2])
    with pytest.raises(ValueError, match="3 images for 2 texts"):
        FeatureSource(images, texts[:2], seed=0)


def test_a_text_is_tokenized_once_and_the_token_cache_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CACHED_TEXTS", 2)
    asked = []

    def counting(texts):
        asked.extend(texts)
        return tokenize(texts)

    tokens = data._TokenCache(counting)
    for text in "a", "a", "b", "a", "c", "b":
        assert words(tokens(text)) == text
    assert asked == ["a", "b", "c", "b"]


def test_the_sample_cache_is_bounded_by_bytes(tmp_path, monkeypatch):
    paths = shards(tmp_path)
    small = source(paths)
    monkeypatch.setattr(data, "CACHED_BYTES", sum(path.stat().st_size for path in paths) - 1)
    large = source(paths)
    for index in range(11):
        assert equal(small.sample(0, index), large.sample(0, index))
    assert len(small._sample_cache) == 11 and not large._sample_cache
