"""Sources and stores in a bucket of an S3 server on loopback."""

import errno
from pathlib import Path

import boto3
import pytest
import yaml

from mobileclip2.config.model import Weights
from mobileclip2.config.profile import load
from mobileclip2.engine.listing import list_files
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.shard import local_folder
from mobileclip2.engine.source_inventory import SourceInventory
from mobileclip2.errors import DamagedOutput, ShardError, StoreError, WeightsError
from mobileclip2.stages import raw_shards
from mobileclip2.store import Artifact, ArtifactFolder, S3Storage
from mobileclip2.store.manifest_cache import ManifestCache
from mobileclip2.store.stat_cache import DOUBTED, StatCache
from tests.tiny import make_tiny


def storage(bucket: str, prefix: str = "") -> S3Storage:
    return S3Storage(f"s3://{bucket}/{prefix}")


@pytest.mark.parametrize("prefix", ["", "some/prefix"])
def test_written_objects_can_be_read(bucket, tmp_path, prefix):
    store = storage(bucket, prefix)
    store.write("a/b", b"1")
    (tmp_path / "file").write_bytes(b"22")
    store.put("a/c", tmp_path / "file")
    assert store.read("a/b") == b"1"
    assert store.fetch("a/c").read_bytes() == b"22"
    assert list(store.list("a/")) == [("a/b", 1), ("a/c", 2)]
    assert [each.relative for each in list_files(store.url, "**/*")] == ["a/b", "a/c"]
    store.delete("a/b")
    assert not store.exists("a/b") and store.exists("a/c")


def test_a_changed_object_is_fetched_again(bucket):
    store = storage(bucket)
    store.write("set/x", b"old")
    assert store.fetch("set/x").read_bytes() == b"old"
    folder = local_folder(f"{store.url}/set")
    store.write("set/x", b"new")
    assert store.fetch("set/x").read_bytes() == b"new"
    assert local_folder(f"{store.url}/set") != folder


@pytest.mark.parametrize("linked", [True, False])
def test_a_damaged_file_of_a_cached_folder_is_downloaded_again(bucket, monkeypatch, linked):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    if not linked:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    store = storage(bucket)
    store.write("set/x", b"content")
    path = local_folder(f"{store.url}/set") / "x"
    path.write_bytes(b"damaged")
    assert local_folder(f"{store.url}/set") / "x" == path
    assert path.read_bytes() == b"content"


def test_a_damaged_object_of_an_artifact_is_no_longer_complete(bucket, manifest):
    """The bytes of the object differ from the hash in its metadata."""
    store = storage(bucket)
    output = ArtifactFolder(store, "a", manifest().fingerprint, "g00")
    output.write("x", b"1")
    output.commit(manifest(files=output.describe(["x"])))
    summary = ManifestCache().of(output)
    where = {"Bucket": bucket, "Key": store.prefix + output.key("x")}
    store.client.put_object(**where, Body=b"2", Metadata=store._head(output.key("x"))["Metadata"])
    with pytest.raises(DamagedOutput, match="the received bytes differ from the stored bytes"):
        Artifact(store, summary).fetch("x")
    assert StatCache().get(f"{store.url}/{output.prefix}", DOUBTED) == ""
    with pytest.raises(DamagedOutput):
        ManifestCache().of(output)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("damage", [lambda data: bytes(len(data)), lambda data: data[:-1], lambda data: data + b"!"])
def test_a_damaged_cached_file_is_downloaded_again(s3, bucket, damage, own, caplog):
    if own:
        storage(bucket).write("x", b"the content")
    else:  # an object of another program, which has no hash in its metadata
        storage(bucket).client.put_object(Bucket=bucket, Key="x", Body=b"the content")
    local = storage(bucket).fetch("x")
    local.write_bytes(damage(b"the content"))
    assert storage(bucket).fetch("x") == local and local.read_bytes() == b"the content"
    assert f"{local}: the cached file is damaged, so it is downloaded again" in caplog.text
    s3.reset()
    storage(bucket).fetch("x")
    assert [request.method for request in s3.requests] == ["HEAD"]


def test_a_damaged_object_is_named(bucket):
    store = storage(bucket)
    store.write("x", b"1")
    store.client.put_object(Bucket=bucket, Key="x", Body=b"2", Metadata=store._head("x")["Metadata"])
    with pytest.raises(DamagedOutput, match=r"/x: the received bytes differ from the stored bytes, 5 times"):
        store.fetch("x")


def test_folder_markers_of_an_s3_console_are_not_listed(bucket):
    store = storage(bucket)
    for key, data in (("set/", b""), ("set/test/", b""), ("set/test/0.tar", b"tar")):
        store.write(key, data)
    assert [each.relative for each in list_files(f"{store.url}/set", "**/*")] == ["test/0.tar"]
    assert (local_folder(f"{store.url}/set") / "test" / "0.tar").read_bytes() == b"tar"


def test_a_missing_key_or_bucket_is_reported(bucket, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{bucket}/nothing"):
        storage(bucket).read("nothing")
    with pytest.raises(StoreError, match="NoSuchBucket; check the bucket"):
        storage("no-such-bucket", tmp_path).write("a", b"1")


def test_a_bucket_gives_the_same_data_versions_as_a_disk(bucket, tmp_path):
    local = make_tiny(tmp_path / "tiny")
    bucketed = storage(bucket)
    for path in (local.parent / "shards").glob("*.tar"):
        bucketed.put(f"shards/{path.name}", path)
    values = yaml.safe_load(local.read_text())
    values["sources"][0]["url"] = f"s3://{bucket}/shards"
    values["store"] = f"s3://{bucket}/store"
    remote = local.with_name("remote.yaml")
    remote.write_text(yaml.safe_dump(values))
    versions = []
    for profile in (local, remote):
        pipeline = Pipeline(load(profile))
        done = [pipeline.materialize(key, "g00") for key in ("raw_shards", "augmentations")]
        versions.append([each.data_version for each in done])
    assert versions[0] == versions[1]
    text = bucketed.read(next(key for key, _ in bucketed.list("store/") if key.endswith("manifest.json"))).decode()
    assert "AWS" not in text and "test" not in text.replace("/test", "")


def test_a_shard_that_was_replaced_after_the_plan_is_refused(bucket, tmp_path, monkeypatch):
    profile = make_tiny(tmp_path / "tiny")
    shards = profile.parent / "shards"
    store = storage(bucket)
    for path in shards.glob("*.tar"):
        store.put(f"shards/{path.name}", path)
    values = yaml.safe_load(profile.read_text())
    values["sources"][0]["url"] = f"s3://{bucket}/shards"
    profile.write_text(yaml.safe_dump(values))
    pipeline = Pipeline(load(profile))
    assert pipeline.missing(pipeline.graph["raw_shards"], "g00")
    write = raw_shards.write_sidecar

    def put_back(*arguments):
        store.put("shards/00000.tar", shards / "00000.tar")
        write(*arguments)

    monkeypatch.setattr(raw_shards, "write_sidecar", put_back)
    store.put("shards/00000.tar", shards / "00001.tar")
    with pytest.raises(ShardError, match=r"shards/00000\.tar: the object has changed since the run was planned \(ETag"):
        pipeline.materialize("raw_shards", "g00")
    assert not list(profile.parent.glob("store/raw_shards/**/*.parquet"))
    store.put("shards/00000.tar", shards / "00000.tar")
    pipeline.materialize("raw_shards", "g00")


@pytest.mark.parametrize("parts", [1, 5])
def test_an_object_that_is_replaced_between_two_requests_is_not_downloaded(s3, bucket, monkeypatch, parts):
    """Another program wrote the object with its own part size, so its ETag is not a hash that we can compute."""
    monkeypatch.setattr("mobileclip2.store.s3.PART_BYTES", 1 << 20)
    monkeypatch.setattr("mobileclip2.store.s3._is_md5", lambda response: False)
    old, new = b"old" * parts * 300_000, b"new" * parts * 300_000
    store = storage(bucket)
    behind = boto3.client("s3", endpoint_url="http://{}:{}".format(*s3.behind))
    behind.put_object(Bucket=bucket, Key="a.tar", Body=old)
    etag = store.etag("a.tar")
    replaced = False

    def replace(request):
        nonlocal replaced
        if request.number == 2 and not replaced:  # not through the proxy, which waits for the end of this request
            replaced = True
            behind.put_object(Bucket=bucket, Key="a.tar", Body=new)

    s3.reset(replace)
    with pytest.raises(ShardError, match=r"a\.tar: the object has changed"):
        store.fetch("a.tar", etag)
    assert replaced and store.fetch("a.tar").read_bytes() == new
    behind.put_object(Bucket=bucket, Key="a.tar", Body=old)
    assert store.fetch("a.tar", etag).read_bytes() == old


def test_an_empty_source_is_named(bucket, tmp_path):
    profile = make_tiny(tmp_path / "tiny")
    values = yaml.safe_load(profile.read_text())
    values["sources"][0]["url"] = f"s3://{bucket}/nowhere"
    profile.write_text(yaml.safe_dump(values))
    with pytest.raises(ShardError, match=f"no shard matches .* in s3://{bucket}/nowhere"):
        _ = SourceInventory(load(profile)).shards


def test_braces_expand_to_objects_of_a_bucket(bucket, tmp_path):
    profile = make_tiny(tmp_path / "tiny")
    bucketed = storage(bucket)
    for path in (profile.parent / "shards").glob("*.tar"):
        bucketed.put(f"shards/{path.name}", path)
    listings = []
    values = yaml.safe_load(profile.read_text())
    for url in ("shards", "shards/{00000..00003}.tar", "shards/{00000..00004}.tar"):
        values["sources"][0]["url"] = f"s3://{bucket}/{url}"
        profile.write_text(yaml.safe_dump(values))
        listings.append(SourceInventory(load(profile)))
    assert listings[0].shards == listings[1].shards and len(listings[0].shards) == 4
    with pytest.raises(ShardError, match=r"no shard matches .*00004\.tar"):
        _ = listings[2].shards


def test_a_download_sweeps_unused_cache_files(s3, bucket, monkeypatch, tmp_path):
    import os

    from mobileclip2.store import s3 as s3_module

    monkeypatch.setattr(s3_module, "_downloaded", 0.0)
    monkeypatch.setenv("MOBILECLIP2_CACHE_GIB", str(1 / (1 << 20)))
    storage = S3Storage(f"s3://{bucket}")
    left = tmp_path / "cache" / "s3" / "left" / "0.tar"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(5000))
    os.utime(left, (1, 1))
    storage.write("a.tar", bytes(3000))
    path = storage.fetch("a.tar")
    assert path.read_bytes() == bytes(3000) and path.is_relative_to(tmp_path / "cache" / "s3")
    assert not left.exists()


def test_a_password_of_the_endpoint_is_not_repeated(s3, bucket, monkeypatch, caplog):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hunter2@127.0.0.1:1")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with pytest.raises(StoreError, match="the endpoint of the object store contains a password") as error:
        S3Storage(f"s3://{bucket}").read("x")
    assert "hunter2" not in str(error.value) + caplog.text


def test_weights_that_are_not_in_the_bucket_are_named(bucket, tmp_path):
    weights = Weights(path=f"s3://{bucket}/nope.safetensors")
    with pytest.raises(
        WeightsError, match=f"weights: s3://{bucket}/nope.safetensors does not exist; check the profile"
    ):
        Pipeline(load(make_tiny(tmp_path / "tiny"))).inventory.weights_path(weights)
