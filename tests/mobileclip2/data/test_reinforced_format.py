"""The reinforced format: both published layouts, deterministic bytes and clear errors."""

import copy
import gzip
import io
import json
import pickle
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip2.config.augmentation import Augmentation, RandAugment
from mobileclip2.data import reinforced_format as format
from mobileclip2.data.augmentation import sample_view
from mobileclip2.data.reinforced_format import ReinforcedSample, decode, encode, pack
from mobileclip2.errors import ShardError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def samples(draw):
    dim = draw(st.integers(1, 6))
    captions = draw(
        st.dictionaries(
            st.from_regex(r"syn_text[a-z0-9_]{0,8}", fullmatch=True), st.lists(texts, max_size=3), max_size=3
        )
    )
    views = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**31))
    augmentation = Augmentation(randaugment=draw(st.sampled_from([None, RandAugment()])))
    random = torch.Generator().manual_seed(seed)

    def rows(count):
        return torch.randn(count, dim, generator=random).bfloat16()

    return ReinforcedSample(
        key="folder.x/0001",
        caption=draw(texts),
        views=[sample_view(augmentation, seed, "k", view, 640, 480) for view in range(views)],
        captions=captions,
        image_emb=rows(views),
        text_emb=rows(1),
        caption_embs={name: rows(len(kept)) for name, kept in captions.items()},
        image=draw(st.none() | st.binary(max_size=30)),
        extension=draw(st.sampled_from(["jpg", "jpeg", "png", "webp"])),
        url=draw(st.none() | texts),
        rest=draw(st.dictionaries(texts, st.integers() | texts, max_size=2)),
    )


def example(views: int = 2, captions: int = 3) -> ReinforcedSample:
    torch.manual_seed(0)
    return ReinforcedSample(
        "0001",
        "a real caption",
        [sample_view(Augmentation(), 0, "0001", view, 64, 48) for view in range(views)],
        {"syn_text_coca": [f"caption {number}" for number in range(captions)]},
        torch.randn(views, 6).bfloat16(),
        torch.randn(1, 6).bfloat16(),
        {"syn_text_coca": torch.randn(captions, 6).bfloat16()},
        image=b"pixels",
        url="http://x/y",
        rest={"uid": "17"},
    )


def same(first: ReinforcedSample, second: ReinforcedSample) -> bool:
    plain = [
        {name: value for name, value in vars(sample).items() if not name.endswith(("_emb", "_embs"))}
        for sample in (first, second)
    ]
    pairs = [(sample.image_emb, sample.text_emb, *sample.caption_embs.values()) for sample in (first, second)]
    return plain[0] == plain[1] and all(
        one.shape == two.shape and torch.equal(one.float(), two.float()) for one, two in zip(*pairs, strict=True)
    )


def refusal(members: dict[str, bytes], key: str = "0001", shard: str = "s.tar") -> str:
    with pytest.raises(ShardError) as caught:
        decode(members, key, shard)
    assert str(caught.value).startswith(f"{shard}: sample '{key}': ")
    return str(caught.value)


def pth_gz(fields: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(fields, buffer)
    return gzip.compress(buffer.getvalue())


def npz(**fields: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **fields)
    return buffer.getvalue()


@settings(deadline=None)
@given(samples(), st.sampled_from(["pth.gz", "npz"]))
def test_a_sample_is_decoded_as_it_was_encoded(sample, storage):
    members = encode(sample, storage)
    found = decode(members, sample.key, "s.tar")
    if sample.image is None:
        sample = replace(sample, extension="jpg")
    assert same(found, sample)
    assert encode(found, storage) == members


def test_members_are_those_of_the_published_datasets():
    members = encode(example(), "pth.gz")
    assert list(members) == ["jpg", "txt", "url.txt", "syn.json", "paug.json", "pth.gz", "json"]
    assert members["txt"] == b"a real caption" and members["url.txt"] == b"http://x/y"
    assert json.loads(members["syn.json"]) == {"syn_text_coca": ["caption 0", "caption 1", "caption 2"]}
    views = json.loads(members["paug.json"])["param_aug"]
    assert isinstance(views, list) and [len(view) for view in views] == [2, 2]
    assert all(isinstance(value, int) for view in views for value in (*view[0], *(op for op, _ in view[1])))
    fields = torch.load(io.BytesIO(gzip.decompress(members["pth.gz"])), weights_only=True)
    assert {name: (tuple(rows.shape), rows.dtype) for name, rows in fields.items()} == {
        "image_emb": ((2, 6), torch.bfloat16),
        "text_emb": ((1, 6), torch.bfloat16),
        "syn_text_coca_emb": ((3, 6), torch.bfloat16),
    }
    exact = np.load(io.BytesIO(encode(example(), "npz")["npz"]), allow_pickle=False)
    assert {name: exact[name].dtype.name for name in exact.files} == dict.fromkeys(fields, "float32")
    assert np.array_equal(exact["image_emb"], fields["image_emb"].float().numpy())


@pytest.mark.parametrize("storage", ["pth.gz", "npz"])
def test_bytes_do_not_depend_on_time_or_tensor_storage(monkeypatch, storage):
    sample = example()
    first = encode(sample, storage)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    large = torch.zeros(1000, 12, dtype=torch.bfloat16)
    large[500:502, 3:9] = sample.image_emb
    part = replace(sample, image_emb=large[500:502, 3:9])
    assert encode(part, storage) == first


def test_fast_packing_costs_little_space_and_any_gzip_reads_it():
    rows = torch.nn.functional.normalize(torch.randn(8, 1536, generator=torch.Generator().manual_seed(0)), dim=-1)
    packed = pack({"image_emb": rows}, "pth.gz")
    plain = gzip.decompress(packed)
    assert torch.equal(torch.load(io.BytesIO(plain), weights_only=True)["image_emb"], rows.bfloat16())
    assert len(packed) < 1.03 * len(gzip.compress(plain, 9)) < 0.9 * len(plain)


@pytest.mark.parametrize("captions", [1, 3])
def test_both_layouts_and_both_forms_of_param_aug_give_the_same_sample(captions):
    sample = example(captions=captions)
    members = encode(sample, "pth.gz")
    views = [view.to_list() for view in sample.views]
    joined = torch.cat([sample.text_emb, sample.caption_embs["syn_text_coca"]])
    older = {
        **members,
        "paug.json": json.dumps({"param_aug": json.dumps(views)}).encode(),
        "pth.gz": pth_gz({"image_emb": sample.image_emb, "text_emb": joined}),
    }
    assert same(decode(older, "0001", "s.tar"), sample)
    del older["pth.gz"]
    older["npz"] = npz(image_emb=sample.image_emb.float().numpy(), text_emb=joined.float().numpy())
    assert same(decode(older, "0001", "s.tar"), sample)


def test_npz_is_preferred_because_it_is_exact():
    sample = example()
    exact = {"image_emb": torch.randn(2, 6), "text_emb": torch.randn(1, 6), "syn_text_coca_emb": torch.randn(3, 6)}
    members = encode(sample, "pth.gz") | {"npz": npz(**{name: rows.numpy() for name, rows in exact.items()})}
    found = decode(members, "0001", "s.tar")
    assert torch.equal(found.image_emb, exact["image_emb"]) and found.image_emb.dtype == torch.float32


class _Bomb:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_is_unpickled(capsys):
    members = encode(example(), "pth.gz")
    fields = {"image_emb": _Bomb()}
    buffer = io.BytesIO()
    torch.save(fields, buffer)
    assert "'pth.gz' cannot be read" in refusal({**members, "pth.gz": gzip.compress(buffer.getvalue())})
    assert "'pth.gz' cannot be read" in refusal({**members, "pth.gz": gzip.compress(pickle.dumps(fields))})
    buffer = io.BytesIO()
    np.savez(buffer, image_emb=np.array([_Bomb()], object))
    assert "'npz' cannot be read" in refusal({**members, "npz": buffer.getvalue()})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("fault", ["view", "row", "caption", "caption row", "dim", "nan", "text row", "shape"])
def test_counts_and_dimensions_must_agree(fault):
    sample = example()
    emb = sample.caption_embs["syn_text_coca"]
    broken, message = {
        "view": (replace(sample, views=sample.views[:1]), "'image_emb' has 2 rows for 1 views in paug.json"),
        "row": (replace(sample, image_emb=sample.image_emb[:0]), "'image_emb' has 0 rows for 2 views in paug.json"),
        "caption": (
            replace(sample, captions={"syn_text_coca": ["one"]}),
            "'syn_text_coca_emb' has 3 rows for 1 captions 'syn_text_coca' in syn.json",
        ),
        "caption row": (
            replace(sample, caption_embs={"syn_text_coca": emb[:2]}),
            "'syn_text_coca_emb' has 2 rows for 3 captions 'syn_text_coca' in syn.json",
        ),
        "dim": (replace(sample, text_emb=sample.text_emb[:, :5]), "'text_emb' has shape [1, 5]; every row must have 6"),
        "nan": (replace(sample, text_emb=sample.text_emb * torch.nan), "'text_emb' has numbers that are not finite"),
        "text row": (replace(sample, text_emb=sample.text_emb[:0]), "'text_emb' has 0 rows for 1 txt"),
        "shape": (replace(sample, image_emb=sample.image_emb[0]), "'image_emb' has shape [6]"),
    }[fault]
    with pytest.raises(ValueError) as caught:
        encode(broken, "pth.gz")
    assert message in str(caught.value)
    members = encode(sample, "pth.gz") | {
        "syn.json": json.dumps(broken.captions).encode(),
        "paug.json": json.dumps({"param_aug": [view.to_list() for view in broken.views]}).encode(),
        "pth.gz": pth_gz(
            {
                "image_emb": broken.image_emb,
                "text_emb": broken.text_emb,
                "syn_text_coca_emb": broken.caption_embs["syn_text_coca"],
            }
        ),
    }
    assert message in refusal(members)


def test_captions_and_embeddings_without_a_counterpart_are_reported():
    """Regression: training used captions without embeddings."""
    sample = example()
    members = encode(sample, "pth.gz")
    renamed = json.dumps({"syn_text_other": sample.captions["syn_text_coca"]}).encode()
    assert "'syn_text_other' in syn.json has no embeddings 'syn_text_other_emb'" in refusal(
        {**members, "syn.json": renamed}
    )
    assert "embeddings 'syn_text_coca_emb' have no captions" in refusal({**members, "syn.json": b"{}"})
    joined = {"image_emb": sample.image_emb, "text_emb": torch.randn(5, 6)}
    two = json.dumps({"syn_text_a": ["x", "y"], "syn_text_b": ["x", "y"]}).encode()
    older = {**members, "syn.json": two, "pth.gz": pth_gz(joined)}
    assert "'text_emb' has 5 rows, which needs one field of captions in syn.json, not 2" in refusal(older)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"txt": None}, "member 'txt' is missing among jpg, url.txt"),
        ({"txt": b"\xff"}, "'txt' is not UTF-8 at byte 0"),
        ({"syn.json": None}, "member 'syn.json' is missing"),
        ({"syn.json": b"{"}, "'syn.json' is not JSON"),
        ({"syn.json": b"[1]"}, "'syn.json' is not a mapping of fields"),
        ({"syn.json": b'{"syn_text": "one text"}'}, "'syn_text' in syn.json is not a list of captions"),
        ({"syn.json": b'{"syn_text": ["text", null]}'}, "'syn_text' in syn.json is not a list of captions"),
        ({"paug.json": None}, "member 'paug.json' is missing"),
        ({"paug.json": b"{}"}, "'param_aug' is missing in paug.json"),
        ({"paug.json": b'{"param_aug": "["}'}, "paug.json: "),
        ({"paug.json": b'{"param_aug": [[[0, 0, 1], null]]}'}, "paug.json: not a view"),
        ({"paug.json": b'{"param_aug": []}'}, "'image_emb' has 2 rows for 0 views in paug.json"),
        ({"pth.gz": None}, "neither 'npz' nor 'pth.gz' is among"),
        ({"pth.gz": b"\x1f\x8b"}, "'pth.gz' cannot be read"),
        ({"pth.gz": pth_gz([torch.zeros(2)])}, "'pth.gz' must be a mapping of fields, not a list"),
        ({"pth.gz": pth_gz({"text_emb": torch.zeros(1, 6)})}, "'image_emb' is missing among the embeddings text_emb"),
        ({"pth.gz": pth_gz({"image_emb": torch.zeros(2, 6)})}, "'text_emb' is missing among the embeddings image_emb"),
        ({"npz": b"PK\3\4"}, "'npz' cannot be read"),
        ({"json": b"\xff"}, "'json' is not JSON"),
    ],
)
def test_a_malformed_member_is_reported(changed, message):
    members = encode(example(), "pth.gz") | changed
    assert message in refusal({name: data for name, data in members.items() if data is not None})


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["syn.json", "paug.json", "pth.gz", "npz", "json", "txt"]), st.data())
def test_damaged_members_raise_only_shard_errors(name, data):
    members = encode(example(), "npz" if name == "npz" else "pth.gz")
    whole = bytearray(members[name])
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at : at + data.draw(st.integers(1, 8))] = data.draw(st.binary(max_size=8))
    try:
        found = decode({**members, name: bytes(whole)}, "0001", "s.tar")
    except ShardError:
        return
    assert len(found.image_emb) == len(found.views)


def test_archives_of_a_known_layout_are_read_as_by_torch():
    """Only the first archive of a layout needs torch.load. The numbers of views and captions define the layout."""
    format._LAYOUTS.clear()
    for views, captions in [(2, 3), (4, 1), (2, 3), (4, 1), (3, 2)]:
        for _ in range(2):
            shapes = {"image_emb": (views, 24), "text_emb": (1, 24), "syn_text_a_emb": (captions, 24)}
            stored = {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
            found = format._read_pth_gz(format.pack(stored, "pth.gz"))
            assert list(found) == list(stored)
            assert all(
                torch.equal(found[name], rows) and found[name].dtype == rows.dtype for name, rows in stored.items()
            )
    assert sum(map(len, format._LAYOUTS.values())) == 3


def test_archives_with_shared_storage_or_other_objects_are_read_by_torch():
    format._LAYOUTS.clear()
    rows = torch.randn(3, 8).bfloat16()
    for stored in ({"a": rows, "b": rows[1:]}, {"a": rows, "note": "text"}, {"a": rows.T}, [rows]):
        buffer = io.BytesIO()
        torch.save(stored, buffer)
        for _ in range(2):
            found = format._read_pth_gz(gzip.compress(buffer.getvalue()))
            assert repr(found) == repr(stored)
    assert not any(format._LAYOUTS.values())


def test_non_finite_numbers_are_reported_and_large_numbers_kept():
    sample = example()
    large = replace(sample, image_emb=torch.full((2, 6), 3e38).bfloat16())
    assert not large.image_emb.sum(dtype=torch.float32).isfinite()
    assert same(decode(encode(large, "pth.gz"), "0001", "s.tar"), large)
    one = sample.image_emb.clone()
    one[1, 3] = torch.nan
    with pytest.raises(ValueError, match="'image_emb' has numbers that are not finite"):
        encode(replace(sample, image_emb=one), "pth.gz")


def test_a_sample_without_views_is_refused():
    sample = example()
    with pytest.raises(ValueError, match=r"paug\.json has no view"):
        encode(replace(sample, views=[], image_emb=sample.image_emb[:0]), "pth.gz")


def padded_archive(number: int, padding: int) -> bytes:
    """Return an archive with a different head for each number."""
    buffer, padded = io.BytesIO(), io.BytesIO()
    torch.save({"image_emb": torch.ones(1, 4)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(padded, "w") as target:
        target.writestr("archive/data.pkl", source.read("archive/data.pkl"))
        target.writestr("archive/pad", f"{number:8}" + "x" * padding)
        for name in source.namelist():
            if name != "archive/data.pkl":
                target.writestr(name, source.read(name))
    return gzip.compress(padded.getvalue(), 1)


def test_the_cache_of_layouts_is_bounded(monkeypatch):
    monkeypatch.setattr(format, "MAX_LAYOUTS", 3)
    format._LAYOUTS.clear()
    for number in range(8):
        format._read_pth_gz(padded_archive(number, number // 2))
        assert 0 < sum(map(len, format._LAYOUTS.values())) <= 3
    kept = copy.deepcopy(format._LAYOUTS)
    format._read_pth_gz(padded_archive(0, format.MAX_HEAD_BYTES))
    assert kept == format._LAYOUTS
