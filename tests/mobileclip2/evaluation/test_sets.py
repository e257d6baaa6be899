from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mobileclip2.errors import ShardError, UserError
from mobileclip2.evaluation.sets import EvaluationSet
from tests.mobileclip2.evaluation.small_sets import CLASSES, RETRIEVAL, WriteSet, captioned, labeled, picture

DEMO = Path(__file__).parents[3] / "demo" / "evaluation"


def test_classification_set(write_set: WriteSet) -> None:
    first = [("a", labeled(0, 3)), ("b", {"webp": picture(1, "webp"), "cls": b"5\n"})]
    each = write_set(first, [("c", {"jpg": picture(2, "jpeg"), "cls": b"0", "json": b"{}"})])
    each.check()
    assert (each.kind, each.size, each.classnames) == ("classification", 3, list(CLASSES))
    assert [(s.key, s.target, s.fault) for s in each.samples()] == [("a", 3, None), ("b", 5, None), ("c", 0, None)]
    assert next(each.samples()).image == picture(0)


def test_retrieval_set_keeps_every_line_of_a_caption_file(write_set: WriteSet) -> None:
    shard = [("a", captioned(0, "one", "two", "", "four")), ("b", captioned(1, "five"))]
    each = write_set(shard, files=RETRIEVAL)
    assert each.kind == "retrieval"
    assert [s.captions for s in each.samples()] == [("one", "two", "", "four"), ("five",)]


def test_kind_without_dataset_type_follows_the_samples(write_set: WriteSet) -> None:
    files = {**RETRIEVAL, "dataset_type.txt": None}
    assert write_set([("a", captioned(0, "x"))], name="r", files=files).kind == "retrieval"
    unnamed = write_set([("a", labeled(0, 0))], name="c", files=files)
    with pytest.raises(UserError, match=r"'c': .*classnames\.txt cannot be read"):
        unnamed.check()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classnames.txt", "dog\n\ncat\n", r"classnames\.txt, line 2: blank"),
        ("classnames.txt", "", r"classnames\.txt: empty"),
        ("zeroshot_classification_templates.txt", None, r"templates\.txt cannot be read"),
        ("zeroshot_classification_templates.txt", "{c}\na photo\n", r"line 2: 'a photo' has no place"),
        ("zeroshot_classification_templates.txt", "a {}\n", r"line 1: 'a \{\}' has no place"),
        ("zeroshot_classification_templates.txt", "a {c\n", r"line 1: .* has no place"),
        ("zeroshot_classification_templates.txt", "{{c}}\n", r"line 1: .* has no place"),
        ("classnames.txt", "dog\ncat\n dog \n", r"classnames\.txt, line 3: 'dog' is also the name in line 1"),
        ("classnames.txt", "Dog\ncat\ndog\n", r"line 3: 'dog' is also the name in line 1, 'Dog'"),
        ("classnames.txt", "tabby cat\nTabby  cat\n", r"line 2: 'Tabby  cat' is also the name in line 1"),
        ("classnames.txt", "caf\u00e9\ncafe\u0301\n", r"line 2: 'cafe\u0301' is also the name in line 1"),
        ("classnames.txt", "dog\nnan\n", r"classnames\.txt, line 2: 'nan' is not a name but a value"),
        ("classnames.txt", "None\ndog\n", r"classnames\.txt, line 1: 'None' is not a name but a value"),
        ("classnames.txt", "dog\n['cat']\n", r"classnames\.txt, line 2: .* is not a name but a value"),
        ("classnames.txt", "dog\n\u200b\u200d\n", r"classnames\.txt, line 2: blank"),
        ("classnames.txt", "dog\n\ufeffcat\n", r"classnames\.txt, line 2: a byte order mark"),
        ("classnames.txt", "dog\nc\0at\n", r"classnames\.txt, line 2: .* control character"),
        ("zeroshot_classification_templates.txt", "lambda c: f'a photo of a {c}.',\n", r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", "'a photo of a {c}.',\n", r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", 'f"a photo of a {c}."\n', r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", "print('a photo of a {c}')\n", r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", "- 'a photo of a {c}'\n", r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", "'a photo of a {c}.',  # good\n", r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", "a {c}\n- a photo of a {c}\n", r"line 2: .* is an item of a list"),
        ("zeroshot_classification_templates.txt", "1. a photo of a {c}\n", r"line 1: .* is an item of a list"),
        ("zeroshot_classification_templates.txt", "\u2022 a photo of a {c}\n", r"line 1: .* is an item of a list"),
        ("zeroshot_classification_templates.txt", 'f"{c}".upper()\n', r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", "templates += ['a {c}']\n", r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", "['a {c}',\n", r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", "c => 'a {c}'\n", r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", "yield 'a {c}'\n", r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", "a {c}\n[\n", r"line 2: .* is Python code"),
        ("zeroshot_classification_templates.txt", "templates = [\na {c}\n", r"line 1: .* is Python code"),
        ("zeroshot_classification_templates.txt", "a {c:>1000000000}\n", r"line 1: .* has no place"),
        ("zeroshot_classification_templates.txt", "a {c!r}\n", r"line 1: .* has no place"),
        ("zeroshot_classification_templates.txt", "a {c} {c.__class__}\n", r"line 1: .* has no place"),
        ("test/nshards.txt", "9" * 5000, r"is not a number of shards"),
        ("test/nshards.txt", None, r"nshards\.txt cannot be read"),
        ("test/nshards.txt", "two", r"'two' is not a number of shards"),
        ("test/nshards.txt", "0", r"'0' is not a number of shards"),
        ("test/nshards.txt", "2", r"1\.tar: missing"),
        ("dataset_type.txt", "multilabel", r"'multilabel' cannot be evaluated"),
    ],
)
def test_incomplete_set_names_the_file(write_set: WriteSet, file: str, text: str | None, message: str) -> None:
    each = write_set([("a", labeled(0, 0))], files={file: text})
    with pytest.raises(UserError, match=message):
        each.check()


def test_text_that_is_not_utf8(write_set: WriteSet) -> None:
    each = write_set([("a", labeled(0, 0))])
    (each.path / "classnames.txt").write_bytes(b"dog\nchat noir\xe9\n")
    with pytest.raises(UserError, match=r"classnames\.txt: not UTF-8 at byte 13"):
        each.check()


def test_a_byte_order_mark_is_not_part_of_a_text(write_set: WriteSet) -> None:
    each = write_set([("a", labeled(0, 0))])
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        file = each.path / name
        file.write_text(file.read_text(), encoding="utf-8-sig")
    assert each.classnames == list(CLASSES)
    assert not each.templates[0].startswith("\ufeff")


def test_templates_with_quotes_are_text(write_set: WriteSet) -> None:
    lines = [
        "a 'photo' of a {c}.",
        "'{c}' on a sign",
        "Definition: {c}",
        "({c})",
        'the sign: "{c}"',
        'sign: "{c}"',
        '"{c}".',
        "the {c}'s photo",
        "photo ({c})",
        "{c} # {c} 'x'",
        "it's a {c} " + "(" * 2000,
    ]
    files = {"zeroshot_classification_templates.txt": "".join(f"{line}\n" for line in lines)}
    assert write_set([("a", labeled(0, 0))], files=files).templates == lines


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'gone': .*/gone/test/nshards\.txt cannot be read"):
        EvaluationSet("gone", tmp_path / "gone").check()


def test_doubled_braces_are_literal(write_set: WriteSet) -> None:
    each = write_set([("a", labeled(0, 0))], files={"zeroshot_classification_templates.txt": "{{a}} {c}\n"})
    assert each.templates[0].format(c="dog") == "{a} dog"


def test_a_shard_beyond_nshards_is_rejected(write_set: WriteSet) -> None:
    each = write_set([("a", labeled(0, 0))])
    shutil.copy(each.path / "test/0.tar", each.path / "test/1.tar")
    with pytest.raises(ShardError, match=r"1\.tar: not among the 1 shards"):
        each.check()


def test_empty_tars(write_set: WriteSet) -> None:
    with pytest.raises(ShardError, match="contain no sample"):
        list(write_set([], []).samples())


@pytest.mark.parametrize(("keep", "message"), [(600, "cut off or damaged"), (0, "not a tar")])
def test_damaged_tar(write_set: WriteSet, keep: int, message: str) -> None:
    each = write_set([("a", labeled(0, 0)), ("b", labeled(1, 0))])
    tar = each.path / "test/0.tar"
    tar.write_bytes(tar.read_bytes()[:keep] if keep else b"no tar" * 1000)
    with pytest.raises(ShardError, match=message):
        list(each.samples())


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"png": b"", "cls": b"6"}, "class-out-of-range"),
        ({"png": b"", "cls": b"-1"}, "bad-class"),
        ({"png": b"", "cls": b"dog"}, "bad-class"),
        ({"png": b"", "cls": b"9" * 5000}, "bad-class"),
        ({"png": b"", "cls": "٣".encode()}, "bad-class"),
        ({"png": b"", "txt": b"dog"}, "no-class"),
        ({"gif": b"", "cls": b"0"}, "no-image"),
    ],
)
def test_bad_sample_keeps_its_place(write_set: WriteSet, members: dict[str, bytes], reason: str) -> None:
    each = write_set([("a", labeled(0, 1)), ("bad", members), ("c", labeled(2, 2))])
    first, bad, last = each.samples()
    assert bad.fault is not None and bad.fault.reason == reason
    assert (first.target, last.target) == (1, 2)


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (b" \n ", "no-caption"),
        ("\u200b\n\ufeff".encode(), "no-caption"),
        (b"\xff", "caption-not-utf8"),
        (b"nan", "placeholder-caption"),
        (b"a dog\nNone\n", "placeholder-caption"),
        (b"null", "placeholder-caption"),
        (b"['a dog', 'a cat']", "literal-caption"),
    ],
)
def test_bad_caption(write_set: WriteSet, caption: bytes, reason: str) -> None:
    (sample,) = write_set([("a", {"png": picture(0), "txt": caption})], files=RETRIEVAL).samples()
    assert sample.fault is not None and sample.fault.reason == reason


def test_digest_depends_on_the_content_and_not_on_the_path(write_set: WriteSet, tmp_path: Path) -> None:
    each = write_set([("a", labeled(0, 0))])
    shutil.copytree(each.path, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("not read")
    assert EvaluationSet("other", tmp_path / "copy").digest == each.digest
    for file in ("classnames.txt", "zeroshot_classification_templates.txt", "test/0.tar"):
        changed = EvaluationSet("changed", tmp_path / f"changed-{Path(file).stem}")
        shutil.copytree(each.path, changed.path)
        (changed.path / file).write_bytes((changed.path / file).read_bytes() + b"\0")
        assert changed.digest != each.digest


def test_demo_sets_are_complete() -> None:
    found = {path.name: EvaluationSet(path.name, path) for path in sorted(DEMO.iterdir())}
    assert {name: each.kind for name, each in found.items()} == {
        "emoji-861": "classification",
        "emoji-retrieval": "retrieval",
        "emoji-seen-661": "classification",
        "emoji-unseen-200": "classification",
    }
    for each in found.values():
        samples = list(each.samples())
        assert len(samples) == each.size and not any(sample.fault for sample in samples)
