"""Reading and writing of valid, unusual and damaged tars."""

import gc
import gzip
import io
import lzma
import resource
import stat
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip2.data.tar import RawSample, TarWriter, read_samples
from mobileclip2.errors import ShardError

names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="./"), min_size=1, max_size=20)
folders = st.lists(names.map(lambda name: f"{name}.v2") | names, max_size=2)
keys = st.builds(lambda folder, name: "/".join([*folder, name]), folders, names)
extensions = st.sampled_from(["jpg", "txt", "json", "url.txt", "syn.json", "paug.json", "npz", "pth.gz"])
members = st.dictionaries(extensions, st.binary(max_size=1500), min_size=1)


def tar_of(*files: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for file in files:
            if isinstance(file, tarfile.TarInfo):
                tar.addfile(file)
            else:
                info = tarfile.TarInfo(file[0])
                info.size = len(file[1])
                tar.addfile(info, io.BytesIO(file[1]))
    return target.getvalue()


def read(data: bytes, ignored: Counter[str] | None = None) -> list[RawSample]:
    return list(read_samples(io.BytesIO(data), "some.tar", ignored))


def read_until_damage(data: bytes) -> tuple[list[str], str]:
    found = []
    with pytest.raises(ShardError) as caught:
        for sample in read_samples(io.BytesIO(data), "some.tar"):
            found.append(sample.key)
    return found, str(caught.value)


def reasons(samples: list[RawSample]) -> dict[str, str | None]:
    return {sample.key: sample.fault.reason if sample.fault else None for sample in samples}


def linked(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@given(st.dictionaries(keys, members, max_size=5))
def test_written_samples_are_read_back(samples):
    target = io.BytesIO()
    with TarWriter(target) as tar:
        for key, content in samples.items():
            tar.write(key, content)
    again = {sample.key: sample.members for sample in read(target.getvalue())}
    assert again == samples and list(again) == list(samples)
    assert all(list(again[key]) == list(samples[key]) for key in samples)


@settings(max_examples=40)
@given(st.dictionaries(keys, members, min_size=1, max_size=4), st.data())
def test_a_cut_anywhere_is_detected_and_earlier_samples_are_read(samples, data):
    target = io.BytesIO()
    ends = []
    with TarWriter(target) as tar:
        for key, content in samples.items():
            tar.write(key, content)
            ends.append(target.tell())
    whole = target.getvalue()
    cut = data.draw(st.integers(0, ends[-1]))
    found, message = read_until_damage(whole[:cut])
    assert found == list(samples)[: len(found)]
    # A sample is complete once the header of the next sample is read.
    assert len(found) >= sum(end + 512 <= cut for end in ends) - 1
    assert message.startswith("some.tar: ")


def test_a_truncated_tar_is_reported_with_file_byte_and_last_complete_key():
    data = tar_of(*((f"{n:04d}.{e}", bytes(1000)) for n in range(5) for e in ("jpg", "txt")))
    found, message = read_until_damage(data[: 1536 * 7 + 700])
    assert found == ["0000", "0001", "0002"]
    assert "some.tar: cut off or damaged at byte 11,452" in message
    assert "last complete sample is '0002'" in message and "Fetch the shard again" in message


def test_a_tar_cut_between_two_members_lacks_its_end_marker():
    data = tar_of(("a.jpg", bytes(10)), ("a.txt", b"x"), ("b.jpg", bytes(10)))
    found, message = read_until_damage(data[: 1024 * 3])
    assert found == ["a"] and "at byte 3,072" in message


def test_a_damaged_header_is_not_taken_for_the_end():
    data = bytearray(tar_of(*((f"{n}.jpg", bytes(10)) for n in range(4))))
    data[2048:2060] = b"\xffgarbage\xff..."
    found, message = read_until_damage(bytes(data))
    assert found == ["0"] and "at byte 2,048" in message


def test_a_hole_of_zeros_and_a_second_tar_do_not_hide_samples():
    data = bytearray(tar_of(*((f"{n}.jpg", b"x" * 2000) for n in range(9))))
    data[5120:7680] = bytes(2560)
    found, message = read_until_damage(bytes(data))
    assert found == ["0", "1"] and "more data follows the end" in message
    found, message = read_until_damage(tar_of(("a.jpg", b"x")) + tar_of(("b.jpg", b"x")))
    assert found == ["a"] and "more data follows the end" in message


@pytest.mark.parametrize("data", [b"", b"x", b"<html>404 Not Found</html>" * 100])
def test_data_that_is_not_a_tar_is_reported(data):
    found, message = read_until_damage(data)
    assert found == [] and message.startswith("some.tar: not a tar (") and "fetch it again" in message


@pytest.mark.parametrize(("compress", "command"), [(gzip.compress, "gzip -dc"), (lzma.compress, "xz -dc")])
def test_a_compressed_tar_is_reported_with_the_command_to_unpack_it(compress, command):
    buffer = io.BytesIO()
    with TarWriter(buffer) as writer:
        writer.write("a", {"txt": b"a"})
    with pytest.raises(
        ShardError, match=rf"x\.tar: not a tar but compressed with \w+; shards are plain tars.*{command} FILE > PLAIN"
    ):
        list(read_samples(io.BytesIO(compress(buffer.getvalue())), "x.tar"))


def test_an_empty_file_differs_from_a_tar_without_members():
    assert "empty" in read_until_damage(b"")[1]
    assert read(tar_of()) == []


def test_a_disk_error_is_not_reported_as_damage():
    class Broken(io.BytesIO):
        def read(self, *arguments):
            raise OSError(5, "Input/output error")

    with pytest.raises(ShardError, match=r"some\.tar: cannot be read: .*Input/output error"):
        list(read_samples(Broken(), "some.tar"))


def test_keys_keep_dotted_folders_and_extensions_start_at_the_first_dot():
    samples = read(
        tar_of(
            ("shard.v2/0001.jpg", b"i"),
            ("shard.v2/0001.url.txt", b"u"),
            ("shard.v2/0001.SYN.json", b"s"),
            ("./0002.JPG", b"j"),
        )
    )
    assert samples[0] == RawSample("shard.v2/0001", {"jpg": b"i", "url.txt": b"u", "syn.json": b"s"})
    assert samples[1] == RawSample("0002", {"jpg": b"j"})


@pytest.mark.parametrize("path", ["../evil.jpg", "a/../../evil.jpg", "/etc/evil.jpg", ".././b.jpg", "..//a.jpg"])
def test_a_path_that_leaves_the_shard_is_a_bad_sample(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = read(tar_of(("0.jpg", b"x"), (path, b"evil"), ("1.jpg", b"y")))
    assert [sample.fault.reason if sample.fault else None for sample in samples] == [None, "bad-path", None]
    assert path in samples[1].fault.detail and samples[1].members == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (
            ["a.jpg", "a.txt", "b.jpg", "b.txt", "a.jpg", "a.txt", "c.jpg"],
            [None, None, "duplicate-key", None],
        ),
        (["a.jpg", "a.txt", "a.jpg", "a.txt", "b.jpg"], [None, "duplicate-key", None]),
        (["a.jpg", "b.jpg", "a.txt", "b.txt"], [None, None, "duplicate-key", "duplicate-key"]),
        (["./a.jpg", "b.jpg", "a.jpg"], [None, None, "duplicate-key"]),
    ],
)
def test_the_first_sample_of_a_key_stays_and_later_ones_are_bad(order, expected):
    samples = read(tar_of(*((name, str(place).encode()) for place, name in enumerate(order))))
    assert [sample.fault.reason if sample.fault else None for sample in samples] == expected
    assert samples[0].members["jpg"] == b"0"


def test_links_devices_and_names_without_a_key_are_counted():
    ignored: Counter[str] = Counter()
    samples = read(
        tar_of(
            linked("folder", tarfile.DIRTYPE),
            ("a.jpg", b"x"),
            linked("a.txt", tarfile.SYMTYPE),
            linked("b.jpg", tarfile.LNKTYPE),
            linked("c.jpg", tarfile.CHRTYPE),
            linked("d.jpg", tarfile.FIFOTYPE),
            ("README", b"hello"),
            ("folder/._a.jpg", b"mac"),
            ("a.txt", b"y"),
        ),
        ignored,
    )
    assert samples == [RawSample("a", {"jpg": b"x", "txt": b"y"})]
    assert ignored == {"link": 2, "device": 2, "no-key": 2}


def test_names_that_are_not_text_are_bad_samples_with_a_printable_key():
    info = tarfile.TarInfo("caf\udce9.jpg")
    samples = read(tar_of(("a.jpg", b"x"), info, linked("x\ny.jpg", tarfile.REGTYPE)))
    assert [sample.fault.reason for sample in samples[1:]] == ["bad-key", "bad-key"]
    assert samples[1].key == "caf\\udce9"
    samples[1].key.encode()


def test_long_and_non_ascii_names_are_read():
    long = "ordner/" + "ä" * 150
    assert read(tar_of((f"{long}.jpg", b"x")))[0].key == long


def test_only_the_sample_too_large_for_memory_is_bad(monkeypatch):
    monkeypatch.setattr("mobileclip2.data.tar.MAX_SAMPLE_BYTES", 5000)
    files = [
        ("a.jpg", bytes(4000)),
        ("b.jpg", bytes(4000)),
        ("b.npz", bytes(1001)),
        ("b.txt", b""),
        ("c.jpg", b"x"),
    ]
    samples = read(tar_of(*files))
    assert reasons(samples) == {"a": None, "b": "sample-too-large", "c": None}
    assert samples[1].fault.detail == "'b.npz' brings it to 5,001 bytes; at most 5,000"
    assert samples[1].members == {}


def test_reading_holds_only_one_sample_in_memory(tmp_path):
    path = tmp_path / "shard.tar"
    with TarWriter(path) as tar:
        for number in range(60):
            tar.write(f"{number:03d}", {"jpg": bytes(500_000), "txt": b"caption"})
    tracemalloc.start()
    with path.open("rb") as file:
        assert sum(1 for _ in read_samples(file, "shard.tar")) == 60
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_reading_and_writing_release_the_headers_of_earlier_members():
    gc.collect()
    gc.freeze()  # objects of other tests, which would be counted and take seconds to walk
    try:
        target = io.BytesIO()
        with TarWriter(target) as tar:
            for number in range(50):
                tar.write(str(number), {"txt": b"x"})
            assert headers_alive() < 10
        target.seek(0)
        for _ in read_samples(target, "x.tar"):
            assert headers_alive() < 10
    finally:
        gc.unfreeze()


def headers_alive() -> int:
    gc.collect()
    return sum(issubclass(type(thing), tarfile.TarInfo) for thing in gc.get_objects())


def test_the_same_samples_give_the_same_bytes_without_times_or_owners(tmp_path):
    for name in ("one.tar", "two.tar"):
        with TarWriter(tmp_path / name) as tar:
            tar.write("a/0", {"jpg": b"x", "txt": b"y"})
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")


def test_a_failed_writer_keeps_the_previous_file(tmp_path):
    path = tmp_path / "out.tar"
    with TarWriter(path) as tar:
        tar.write("a", {"txt": b"first"})
        assert not path.exists()
    first = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with pytest.raises(RuntimeError), TarWriter(path) as tar:
        tar.write("a", {"txt": b"second"})
        raise RuntimeError("killed")
    assert path.read_bytes() == first and [file.name for file in tmp_path.iterdir()] == ["out.tar"]


@pytest.mark.parametrize(
    ("key", "extension"),
    [
        ("../a", "jpg"),
        ("/a", "jpg"),
        ("a.b", "jpg"),
        ("a", "JPG"),
        ("", "jpg"),
        ("./a", "jpg"),
        ("a", ""),
        ("a\n", "txt"),
    ],
)
def test_the_writer_refuses_names_that_cannot_be_read_back(key, extension):
    with TarWriter(io.BytesIO()) as tar, pytest.raises(ValueError, match="would not be read back"):
        tar.write(key, {extension: b""})


def test_a_full_disk_leaves_no_file(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError), TarWriter(tmp_path / "out.tar") as tar:
            for number in range(40):
                tar.write(str(number), {"jpg": bytes(5000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_the_writer_accepts_paths_and_files(tmp_path):
    target = io.BytesIO()
    for place in (target, tmp_path / "x.tar"):
        with TarWriter(place) as tar:
            tar.write("k", {"txt": b"t"})
    assert target.getvalue() == Path(tmp_path / "x.tar").read_bytes()
