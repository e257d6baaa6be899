"""Faults of networks and stores: transient ones are retried, and others raise clear errors."""

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pytest

from mobileclip2.data import sidecar
from mobileclip2.errors import StoreError
from mobileclip2.store import S3Storage, lease
from mobileclip2.store import s3 as s3_module
from mobileclip2.store.lease import acquire, all_held
from mobileclip2.store.storage import file_sha256
from tests.waiting import until

PART = 5 << 20
"""minimum part size of S3"""
LARGE = 2 * PART + 512
"""three parts, which is above the limit of a single download"""
SEVERAL = 2 * s3_module.ATTEMPTS + 1
"""more attempts than botocore makes"""


@pytest.fixture
def storage(bucket):
    return S3Storage(f"s3://{bucket}")


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(s3_module, "PART_BYTES", PART)


def at_first(fault, times, *methods):
    """Apply a fault to the first requests of some methods."""
    left = times

    def choose(request):
        nonlocal left
        if left and (not methods or request.method in methods):
            left -= 1
            return fault
        return None

    return choose


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        ("503", SEVERAL),
        ("500", SEVERAL),
        ("reset", SEVERAL),
        ("lost", SEVERAL),
        ("silent", 2),
        ("cut", SEVERAL),
        ("cut by a reset", SEVERAL),
        ("stalled", 2),
        ("slow", 1),
        ("altered", s3_module.ALTERED_ATTEMPTS - 1),
    ],
)
def test_reads_succeed_despite_transient_faults(s3, storage, tmp_path, parts, fault, times):
    content = bytes(range(256)) * (LARGE // 256)
    (tmp_path / "large").write_bytes(content)
    storage.write("small", b"12345678")
    storage.put("large", tmp_path / "large")
    for read in (lambda: storage.read("small") == b"12345678", lambda: storage.fetch("large").read_bytes() == content):
        s3.reset(at_first(fault, times, "GET"))
        assert read()
        assert len([request for request in s3.requests if request.method == "GET"]) > (times if fault != "slow" else 0)


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        ("503", SEVERAL),
        ("500", SEVERAL),
        ("reset", SEVERAL),
        ("lost", SEVERAL),
        ("silent", 2),
        ("altered upload", s3_module.ALTERED_ATTEMPTS - 1),
    ],
)
def test_writes_succeed_despite_transient_faults(s3, storage, tmp_path, parts, fault, times):
    content = bytes(range(256)) * (LARGE // 256)
    (tmp_path / "large").write_bytes(content)
    s3.reset(at_first(fault, times, "PUT"))
    storage.write("small", b"12345678")
    s3.reset(at_first(fault, times, "PUT"))
    storage.put("large", tmp_path / "large")
    assert any("partNumber=3" in request.path for request in s3.requests)
    s3.reset()
    assert storage.read("small") == b"12345678"
    assert storage.fetch("large").read_bytes() == content


def test_throttling_and_unreachable_stores_are_reported(s3, storage, monkeypatch, caplog):
    monkeypatch.setattr(s3_module, "PATIENCE_SECONDS", 0.3)
    for fault, said in (
        ("503", "the object store answered SlowDown"),
        ("reset", "cannot reach the object store: Conn"),
    ):
        s3.reset(lambda request, fault=fault: fault)
        with (
            caplog.at_level(logging.WARNING, "mobileclip2"),
            pytest.raises(
                StoreError, match=f"{storage.url}/a: {said}.*, for 0 s; run again when it is back, finished shards"
            ),
        ):
            storage.write("a", b"1")
        assert "trying again for up to 0 s" in caplog.text
        caplog.clear()
    s3.reset()
    assert not storage.exists("a") and list(storage.list("")) == []


@pytest.mark.parametrize("fault", ["altered", "altered upload"])
def test_bytes_altered_in_transit_are_reported_and_not_cached(s3, storage, tmp_path, fault):
    if fault == "altered":
        storage.write("a", b"12345678")
    s3.reset(lambda request: fault if request.method in {"GET", "PUT"} else None)
    with pytest.raises(StoreError, match=r"/a: .*5 times; the network changes bytes"):
        _ = storage.fetch("a") if fault == "altered" else storage.write("a", b"12345678")
    assert not [path for path in (tmp_path / "cache" / "s3").rglob("*") if path.is_file()]


def test_an_object_of_another_program_is_verified_by_its_etag(s3, storage, tmp_path):
    """Objects of older tools have no hash in their metadata and no S3 checksum."""
    from boto3.session import Session
    from botocore.config import Config

    plain = Session().client("s3", config=Config(request_checksum_calculation="when_required"))
    plain.put_object(Bucket=storage.bucket, Key="theirs", Body=b"12345678")
    s3.reset(at_first("altered", 2, "GET"))
    assert storage.fetch("theirs").read_bytes() == b"12345678"
    s3.reset(at_first("altered", 2, "GET"))
    assert storage.read("theirs") == b"12345678"
    assert len(s3.requests) == 3


@pytest.mark.parametrize("do", ["read", "exists", "write", "fetch", "put", "list", "delete"])
def test_the_error_for_expired_credentials_says_what_to_do(s3, storage, tmp_path, do):
    storage.write("there", b"1")
    (tmp_path / "file").write_bytes(b"1")
    s3.reset(lambda request: "expired")
    calls = {
        "write": lambda: storage.write("new", b"1"),
        "put": lambda: storage.put("new", tmp_path / "file"),
        "list": lambda: list(storage.list("")),
    }
    with pytest.raises(StoreError, match=r"the credentials have expired \(ExpiredToken\); renew them and run again"):
        calls.get(do, lambda: getattr(storage, do)("there"))()
    assert len(s3.requests) <= 6, "tried again what does not change"
    s3.reset()
    assert [key for key, _ in storage.list("")] == ["there"]


def test_renewed_credentials_are_reloaded(s3, storage, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = x\n")
    storage._renew()
    storage.write("a", b"1")
    file.write_text("[default]\naws_access_key_id = new\naws_secret_access_key = x\n")
    s3.reset(at_first("expired", 1))
    storage.write("a", b"2")
    first, *others = [request.identity for request in s3.requests]
    assert first == "old" and set(others) == {"new"}  # a slow response is requested again
    monkeypatch.undo()
    storage._renew()


def test_missing_credentials_and_a_wrong_clock_are_reported(s3, storage, monkeypatch):
    from datetime import timedelta

    import botocore.auth

    real = botocore.auth.get_current_datetime
    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda *some, **more: real(*some, **more) + timedelta(hours=1)
    )
    with pytest.raises(
        StoreError, match=r"the clock of this machine differs too much from the object store's \(RequestTimeTooSkewed\)"
    ):
        storage.exists("a")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage._renew()
    with pytest.raises(StoreError, match="Unable to locate credentials; configure the endpoint and the credentials"):
        storage.exists("a")
    monkeypatch.undo()
    storage._renew()


def payloads(storage):
    return [held.payload for held in all_held(storage)]


class TestLease:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)

    def test_a_lease_is_held_after_a_lost_response(self, s3, storage):
        s3.reset(at_first("lost", 1, "PUT"))
        with acquire(storage, ["a"], "mine", waiting=lambda: pytest.fail("waits for itself")):
            assert payloads(storage) == ["mine"]

    def test_a_lease_altered_in_transit_does_not_block(self, s3, storage):
        s3.reset(at_first("altered upload", 2, "PUT"))
        with acquire(storage, ["a"], "mine"):
            assert payloads(storage) == ["mine"]
        assert payloads(storage) == []

    def test_a_short_outage_does_not_end_a_lease(self, s3, storage, monkeypatch):
        monkeypatch.setattr(s3_module, "PATIENCE_SECONDS", 0.05)
        with acquire(storage, ["a"], "mine"):
            before = storage.etag(lease._key("a"))
            s3.reset(lambda request: "503")
            until(lambda: len(s3.requests) >= 10)
            s3.reset()
            until(lambda: storage.etag(lease._key("a")) != before)
            s3.reset(lambda request: "503")
        s3.reset()
        assert payloads(storage) == ["mine"], "it could not be given back, which is no reason to fail"

    def test_a_lost_lease_is_neither_renewed_nor_released(self, s3, storage, caplog):
        with acquire(storage, ["a"], "mine"):
            storage.write(lease._key("a"), b'{"holder": "other", "renewed": 0, "payload": "theirs"}')
            until(lambda: "this lease was lost" in caplog.text)
        assert payloads(storage) == ["theirs"]


@pytest.mark.parametrize("fault", ["stalled", "cut by a reset", "reset", "silent"])
def test_a_missing_object_is_reported_only_after_a_complete_response(s3, storage, fault):
    """The body of an error response can break off."""
    s3.reset(at_first(fault, 2, "GET"))
    with pytest.raises(FileNotFoundError):
        storage.read("never")
    assert len(s3.requests) > 2


def test_a_stored_file_is_described_without_a_download(s3, storage, tmp_path, parts):
    (tmp_path / "large").write_bytes(bytes(range(256)) * (LARGE // 256))
    storage.put("large.tar", tmp_path / "large")
    s3.reset()
    assert storage.describe("large.tar") == (LARGE, file_sha256(tmp_path / "large")) and storage.is_complete(
        "large.tar"
    )
    assert {request.method for request in s3.requests} == {"HEAD"}
    storage.client.put_object(Bucket=storage.bucket, Key="elsewhere", Body=b"12")
    assert storage.describe("elsewhere") == (2, hashlib.sha256(b"12").hexdigest())
    with pytest.raises(FileNotFoundError):
        storage.describe("never")


def test_a_truncated_object_is_not_complete(storage, tmp_path):
    side = sidecar.to_bytes(pa.table({"key": ["a", "b"]}))
    storage.write("side.parquet", side)
    assert storage.is_complete("side.parquet")
    for data in (side, side[: len(side) // 2]):
        storage.client.put_object(Bucket=storage.bucket, Key="side.parquet", Body=data)
        assert storage.is_complete("side.parquet") == (data == side)
    with pytest.raises(FileNotFoundError):
        storage.is_complete("never.parquet")


@pytest.mark.parametrize("fault", ["503", "lost"])
def test_concurrent_appends_keep_every_line(s3, storage, fault):
    s3.reset(at_first(fault, 3, "PUT"))
    lines = [f"{number}\n".encode() for number in range(12)]
    with ThreadPoolExecutor(4) as writers:
        list(writers.map(partial(storage.append, "times/x"), lines))
    assert set(storage.read("times/x").splitlines(keepends=True)) == set(lines)
