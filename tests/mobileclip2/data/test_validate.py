"""Validation: valid samples, and reasons of skipped samples."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from mobileclip2.config.filters import Filters
from mobileclip2.data.tar import RawSample, TarWriter, read_samples
from mobileclip2.data.validate import KEPT, SKIPPED, check_share, iter_valid, validate_shard
from mobileclip2.errors import ShardError
from mobileclip2.fingerprint import declared


def encode(width: int = 12, height: int = 10, form: str = "JPEG") -> bytes:
    target = io.BytesIO()
    pixels = np.random.default_rng(width * height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(target, form)
    return target.getvalue()


GOOD = encode()


class Validated(NamedTuple):
    table: pa.Table
    skipped: pa.Table
    ignored: Counter[str]


def validate(samples: Iterable[RawSample], **filters) -> Validated:
    ignored = Counter[str]()
    return Validated(*validate_shard(samples, Filters(**filters), ignored=ignored), ignored)


def validated(*samples: tuple[str, dict[str, bytes]], **filters) -> Validated:
    return validate((RawSample(key, members) for key, members in samples), **filters)


def reason(members: dict[str, bytes], **filters) -> tuple[str, str]:
    """Return reason and detail of a bad sample. The good samples around it must be valid."""
    good = {"jpg": GOOD, "txt": b"fine"}
    result = validated(("before", good), ("bad", members), ("after", good), **filters)
    assert result.table["key"].to_pylist() == ["before", "after"]
    assert result.table["caption"].to_pylist() == ["fine", "fine"]
    (row,) = result.skipped.to_pylist()
    assert row["key"] == "bad"
    return row["reason"], row["detail"]


def test_a_kept_sample_is_described_in_full():
    result = validated(("d.x/0", {"jpg": GOOD, "txt": b" a caption \n", "url.txt": b"http://x/y.jpg\n", "json": b"{}"}))
    assert result.table.schema.equals(KEPT) and result.skipped.schema.equals(SKIPPED)
    assert result.table.to_pylist() == [
        {
            "key": "d.x/0",
            "caption": "a caption",
            "width": 12,
            "height": 10,
            "image": "jpg",
            "sha256": hashlib.sha256(GOOD).hexdigest(),
            "url": "http://x/y.jpg",
        }
    ]


def test_img2dataset_members_are_read():
    fields = {"caption": "from json", "url": "http://u", "width": 1, "sha256": "other"}
    result = validated(("0", {"json": json.dumps(fields).encode(), "jpg": GOOD, "extra.bin": b"\0"}))
    (row,) = result.table.to_pylist()
    assert (row["caption"], row["url"]) == ("from json", "http://u")


@pytest.mark.parametrize(
    ("extension", "form"),
    [("jpg", "JPEG"), ("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("jpg", "PNG")],
)
def test_each_image_extension_is_found(extension, form):
    result = validated(("0", {"txt": b"x", extension: encode(form=form)}))
    assert result.table["image"].to_pylist() == [extension]


def test_an_unreadable_json_matters_only_if_the_caption_is_in_it():
    assert validated(("0", {"jpg": GOOD, "txt": b"x", "json": b"{broken"})).table.num_rows == 1
    assert reason({"jpg": GOOD, "json": b"{broken"})[0] == "bad-json"
    assert reason({"jpg": GOOD, "json": b"[" * 100_000})[0] == "bad-json"
    assert reason({"jpg": GOOD, "json": b'["caption"]'})[0] == "bad-json"
    assert reason({"jpg": GOOD, "json": b'{"caption": "\xff"}'})[0] == "bad-json"


@pytest.mark.parametrize(
    ("members", "expected", "detail"),
    [
        ({"txt": b"x"}, "missing-image", "no member is one of jpg, jpeg, png, webp; it has txt"),
        ({"txt": b"x", "jpg": b""}, "empty-image", "0 bytes"),
        ({"txt": b"x", "jpg": b"this is text"}, "not-an-image", "12 bytes that begin with b'this is text'"),
        ({"txt": b"x", "jpg": GOOD[:-30]}, "truncated-image", "without its end marker"),
        ({"txt": b"x", "png": encode(1, 1, "PNG")}, "image-too-small", "1 x 1 pixels; a side has at least 2"),
        ({"jpg": GOOD}, "missing-caption", "neither 'txt' nor 'json' is there"),
        ({"jpg": GOOD, "json": b"{}"}, "missing-caption", "no text in 'caption'"),
        ({"jpg": GOOD, "json": b'{"caption": null}'}, "missing-caption", "no text in 'caption'"),
        ({"jpg": GOOD, "json": b'{"caption": "\\ud800"}'}, "invalid-utf8", "half a surrogate pair"),
        ({"jpg": GOOD, "json": b'{"caption": "\\udfff"}'}, "invalid-utf8", "half a surrogate pair"),
        ({"jpg": GOOD, "txt": b""}, "empty-caption", "empty or white space"),
        ({"jpg": GOOD, "txt": b" \n\t\xc2\xa0"}, "empty-caption", "empty or white space"),
        ({"jpg": GOOD, "txt": b"caf\xe9"}, "invalid-utf8", "'txt' is not UTF-8 at byte 3"),
        ({"jpg": GOOD, "txt": b"a\0b"}, "nul-in-caption", "NUL"),
        ({"jpg": GOOD, "txt": b"x" * 10_000}, "caption-too-long", "10000 characters; at most 8192"),
    ],
)
def test_each_bad_sample_has_a_reason_and_affects_no_other_sample(members, expected, detail):
    found, text = reason(members)
    assert found == expected and detail in text


def test_a_caption_as_long_as_the_limit_is_kept_whole():
    assert validated(("0", {"jpg": GOOD, "txt": b"x" * 8192})).table["caption"][0].as_py() == "x" * 8192
    assert validated(("0", {"jpg": GOOD, "txt": b"x" * 10_000}), max_caption_chars=10_000).table.num_rows == 1


def test_filters_of_the_profile_are_applied():
    assert reason({"jpg": encode(9, 12), "txt": b"x"}, min_side=10)[0] == "image-too-small"
    assert reason({"jpg": encode(31, 10), "txt": b"x"}, max_aspect=3)[1] == "31 x 10 pixels; at most 3 to 1"
    assert validated(("0", {"jpg": encode(10, 30), "txt": b"x"}), max_aspect=3).table.num_rows == 1
    assert reason({"jpg": encode(20, 20), "txt": b"x"}, max_pixels=399)[0] == "image-too-large"
    assert reason({"jpg": GOOD, "txt": b"abc"}, min_caption_chars=4)[0] == "caption-too-short"


def test_values_at_the_limits_of_filters_are_kept():
    members = {"jpg": encode(10, 30), "txt": b"abcd"}
    limits = {"min_side": 10, "max_aspect": 3, "max_pixels": 300, "min_caption_chars": 4, "max_caption_chars": 4}
    assert validated(("0", members), **limits).table.num_rows == 1


def test_a_byte_order_mark_is_not_part_of_the_caption():
    assert validated(("0", {"jpg": GOOD, "txt": b"\xef\xbb\xbfwords"})).table["caption"].to_pylist() == ["words"]


def test_filters_are_declared_and_impossible_values_are_refused():
    assert set(declared(Filters())) == set(Filters.model_fields)
    for fields in ({"min_side": 0}, {"max_aspect": 0.5}, {"max_pixels": 10**9}, {"min_sides": 3}):
        with pytest.raises(ValidationError):
            Filters(**fields)


def test_an_unreadable_url_does_not_drop_the_sample():
    for members in (
        {"url.txt": b"\xff"},
        {"json": b"{"},
        {"json": b'{"url": 3}'},
        {"url.txt": b" \n"},
        {"json": b'{"url": "\\ud800"}'},
    ):
        assert validated(("0", {"jpg": GOOD, "txt": b"x", **members})).table["url"].to_pylist() == [None]


def test_a_shard_without_samples_gives_two_empty_tables():
    result = validated()
    assert (result.table.num_rows, result.skipped.num_rows) == (0, 0)
    assert result.table.schema.equals(KEPT)
    check_share(result.skipped, 0, 0.0, "x.tar")


def test_a_few_bad_samples_pass_and_too_many_fail_with_their_reasons():
    rows = [{"key": f"{n}", "reason": "empty-image" if n < 4 else "bad-json", "detail": "d"} for n in range(5)]
    skipped = pa.Table.from_pylist(rows, SKIPPED)
    check_share(skipped, 50, 0.1, "x.tar")
    with pytest.raises(ShardError) as caught:
        check_share(skipped, 49, 0.1, "x.tar")
    assert str(caught.value).splitlines() == [
        "x.tar: 5 of 49 samples are bad, more than the accepted 10.0%. "
        "Repair the shard, relax 'filters' or raise 'max_bad_share'",
        "  empty-image: 4 (0, 1, 2, ...)",
        "  bad-json: 1 (4)",
    ]


def shard(*samples: tuple[str, dict[str, bytes]]) -> bytes:
    target = io.BytesIO()
    with TarWriter(target) as tar:
        for key, members in samples:
            tar.write(key, members)
    return target.getvalue()


sample = st.tuples(
    st.sampled_from("abcdef"),
    st.sampled_from([{"jpg": GOOD, "txt": b"x"}, {"jpg": GOOD}, {"txt": b"x"}, {"jpg": b"", "txt": b"y"}]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(sample, max_size=9))
def test_reading_again_gives_exactly_the_kept_samples(samples):
    data = shard(*((key, {**members, "id": str(n).encode()}) for n, (key, members) in enumerate(samples)))
    result = validate(read_samples(io.BytesIO(data), "x.tar"))
    kept = result.table["key"].to_pylist()
    assert len(set(kept)) == len(kept)
    assert len(kept) + result.skipped.num_rows == len(samples)
    repeats = len(samples) - len({key for key, _ in samples})
    assert result.skipped["reason"].to_pylist().count("duplicate-key") == repeats
    again = list(iter_valid(io.BytesIO(data), "x.tar", kept))
    assert [key for key, _ in again] == kept
    for key, members in again:
        first = next(n for n, (name, _) in enumerate(samples) if name == key)
        assert members["id"] == str(first).encode()


def test_a_kept_sample_that_is_gone_is_reported():
    one, two = ("a", {"jpg": GOOD, "txt": b"x"}), ("b", {"jpg": GOOD, "txt": b"y"})
    with pytest.raises(ShardError, match=r"x\.tar: sample 'b' is gone since the shard was validated.*again"):
        list(iter_valid(io.BytesIO(shard(one)), "x.tar", ["a", "b"]))
    with pytest.raises(ShardError, match="'a' is gone"):
        list(iter_valid(io.BytesIO(shard(two, one)), "x.tar", ["b", "a", "a"]))


def test_a_kept_sample_that_became_bad_is_reported():
    good = ("b", {"jpg": GOOD, "txt": b"y"})
    target = io.BytesIO(shard(("a", {"jpg": GOOD, "txt": b"x"}), good, ("a", {"jpg": GOOD})))
    with pytest.raises(ShardError, match="'a' is gone"):
        list(iter_valid(target, "x.tar", ["b", "a"]))


def test_a_truncated_shard_is_a_failure_and_not_a_short_table():
    data = shard(*((str(n), {"jpg": GOOD, "txt": b"x"}) for n in range(5)))
    with pytest.raises(ShardError, match="cut off or damaged"):
        validate(read_samples(io.BytesIO(data[:6000]), "x.tar"))


def test_the_same_shard_gives_the_same_tables():
    data = shard(("a", {"jpg": GOOD, "txt": b"x"}), ("b", {"jpg": b"", "txt": b"x"}))
    one, two = (validate(read_samples(io.BytesIO(data), "x.tar")) for _ in range(2))
    assert one.table.equals(two.table) and one.skipped.equals(two.skipped)


@pytest.mark.parametrize("caption", ["nan", "NaN", "None", "null", " NULL ", "'nan'", "N/A", "<NA>"])
def test_a_printed_missing_value_is_not_a_caption(caption):
    assert reason({"jpg": GOOD, "txt": caption.encode()})[0] == "placeholder-caption"
    assert reason({"jpg": GOOD, "json": json.dumps({"caption": caption}).encode()})[0] == "placeholder-caption"


@pytest.mark.parametrize(
    "caption", ["['a cat', 'a dog']", "[]", '["a cat"]', "{'caption': 'a cat'}", "('a', 'b')", "b'a cat'", "[['a']]"]
)
def test_a_printed_list_is_not_a_caption(caption):
    assert reason({"jpg": GOOD, "txt": caption.encode()})[0] == "literal-caption"


@pytest.mark.parametrize(
    "caption", ["\u200b\u200d\ufeff", "\u2060 \u00ad", "\u3164", "\u2800\u2800", "\ufe0f", "\x01\x02", "\u034f"]
)
def test_invisible_text_is_not_a_caption(caption):
    assert reason({"jpg": GOOD, "txt": caption.encode()})[0] == "empty-caption"


@pytest.mark.parametrize(
    "caption",
    [
        "nan bread",
        "None of us",
        "(c) 2010 (all)",
        "[AP Photo]",
        "(a cat)",
        "[2010]x",
        "👍🏽",
        "猫",
        "!",
        "Null Island",
        "(2010)",
        "b'",
        "({[" * 900,
    ],
)
def test_unusual_captions_are_kept(caption):
    result = validated(("a", {"jpg": GOOD, "txt": caption.encode()}))
    assert result.table["caption"].to_pylist() == [caption]


def test_pairs_that_differ_only_after_the_first_dot_are_counted():
    data = io.BytesIO()
    with TarWriter(data) as tar:
        tar.write(
            "photo", {"jpg": GOOD, "txt": b"one", "v2.jpg": GOOD, "v2.txt": b"two", "v3.png": GOOD, "v3.json": b"{}"}
        )
        tar.write("img", {"1.jpg": GOOD, "1.txt": b"one", "2.jpg": GOOD, "2.txt": b"two"})
        tar.write("plain", {"jpg": GOOD, "txt": b"x", "url.txt": b"u", "thumb.jpg": GOOD, "cls": b"1", "png": GOOD})
    data.seek(0)
    result = validate(read_samples(data, "s.tar"))
    assert result.table["key"].to_pylist() == ["photo", "plain"]
    assert [(row["key"], row["reason"]) for row in result.skipped.to_pylist()] == [
        (key, "dotted-key") for key in ("photo.v2", "photo.v3", "img.1", "img.2")
    ]
    assert result.ignored == {"thumb.jpg": 1, "cls": 1, "png": 1}
