import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from mobileclip2.errors import LeaseLost, StoreError
from mobileclip2.store import ArtifactFolder, LocalStorage, S3Storage, lease
from mobileclip2.store.lease import WorkerFence, acquire, all_held, is_held, sweep, wait_for_holder
from tests.waiting import until

HOLD = """
import sys, time
from mobileclip2.store import LocalStorage
from mobileclip2.store.lease import acquire
with acquire(LocalStorage(sys.argv[1]), ["a"], "from afar"):
    print("held", flush=True)
    time.sleep(60)
"""


def payloads(storage):
    return [held.payload for held in all_held(storage)]


@pytest.fixture
def elsewhere(tmp_path):
    """Start another process that holds the lease 'a'."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_holder_waits_until_the_first_is_done_or_dead(tmp_path, elsewhere):
    waited = []

    def kill_it():
        waited.append(time.monotonic())
        os.kill(elsewhere.pid, signal.SIGKILL)

    with acquire(LocalStorage(tmp_path), ["b", "a"], waiting=kill_it):
        assert len(waited) == 1


def test_payloads_of_held_leases_are_listed(tmp_path, elsewhere):
    storage = LocalStorage(tmp_path)
    with acquire(storage, ["b"], "from here"):
        assert sorted(payloads(storage)) == ["from afar", "from here"]
        assert is_held(storage, "a") and is_held(storage, "b") and not is_held(storage, "c")
    os.kill(elsewhere.pid, signal.SIGKILL)
    elsewhere.wait()
    assert payloads(storage) == []


def test_a_lease_that_cannot_be_written_is_released(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    storage = LocalStorage(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="the disk is full"):
        patch.setattr(os, "write", full)
        with acquire(storage, ["a"], "payload"):
            pass
    assert not is_held(storage, "a")
    with acquire(storage, ["a", "a"], "one name, twice"):
        assert is_held(storage, "a")


@pytest.mark.parametrize(
    "content", [b"", b'{"holder": "x", "no', b"null", b"[]", b'{"folder": "f", "text": "t"}', b"\xff"]
)
def test_a_held_lease_without_a_readable_payload_is_reported(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lease, "WRITE_SECONDS", 0.05)
    storage = LocalStorage(tmp_path)
    with acquire(storage, ["a"], "payload"):
        path = tmp_path / lease._key("a")
        path.write_bytes(content)
        (held,) = all_held(storage)
        assert (held.url, held.payload) == (str(path), None)


def test_a_reader_waits_while_a_holder_writes_its_payload(tmp_path):
    storage = LocalStorage(tmp_path)
    with acquire(storage, ["a"], "payload"):
        path = tmp_path / lease._key("a")
        whole = path.read_bytes()
        path.write_bytes(whole[:10])
        written = threading.Timer(0.2, path.write_bytes, [whole])
        written.start()
        assert payloads(storage) == ["payload"]
        written.join()


def test_a_reader_is_not_mistaken_for_a_holder(tmp_path):
    storage = LocalStorage(tmp_path)
    path = tmp_path / lease._key("a")
    storage.write(lease._key("a"), b"")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not is_held(storage, "a")


def test_sweep_deletes_the_lease_file_of_a_killed_process(tmp_path, elsewhere):
    storage = LocalStorage(tmp_path)
    with acquire(storage, ["b"]):
        pass
    assert len(list(storage.list(".leases/"))) == 1
    sweep(storage)
    assert is_held(storage, "a")
    elsewhere.kill()
    elsewhere.wait()
    sweep(storage)
    assert list(storage.list(".leases/")) == []


def test_a_writer_whose_lease_file_is_gone_is_refused(tmp_path):
    storage = LocalStorage(tmp_path)
    output = ArtifactFolder(storage, "asset", "0" * 16, None)
    with acquire(storage, [output.prefix]) as held:
        output.fence = held
        output.write("a", b"1")
        (tmp_path / lease._key(output.prefix)).unlink()
        with acquire(storage, [output.prefix]):
            for write in (lambda: output.write("a", b"2"), lambda: output.delete("a"), held.renew):
                with pytest.raises(LeaseLost, match=f"{output.prefix}: this lease was lost"):
                    write()
            assert output.read("a") == b"1" and is_held(storage, output.prefix)
        assert not is_held(storage, output.prefix), "the release of a lost lease must not touch that of the other"


def test_a_worker_is_fenced_by_the_lease_of_its_run(tmp_path):
    storage = LocalStorage(tmp_path)
    with acquire(storage, ["a"]) as held:
        WorkerFence(storage, "a", lambda: held.holder).check()
        with pytest.raises(LeaseLost):
            WorkerFence(storage, "a", lambda: "an earlier run").renew()
    with pytest.raises(LeaseLost):
        WorkerFence(storage, "a", lambda: held.holder).check()


def test_waiting_for_a_holder_does_not_wait_for_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
    storage = LocalStorage(tmp_path)
    with acquire(storage, ["a"]):
        waiting = threading.Thread(target=wait_for_holder, args=(storage, "a"))
        waiting.start()
        time.sleep(0.1)
        assert waiting.is_alive()
    with acquire(storage, ["a"]):
        waiting.join(10)
        assert not waiting.is_alive()


STOPPED = """
import sys
from mobileclip2.errors import LeaseLost
from mobileclip2.store import ArtifactFolder, lease, open_storage
lease.RENEW_SECONDS, lease.VOID_SECONDS = 0.5, 3.0
output = ArtifactFolder(open_storage(sys.argv[1]), "asset", "0" * 16, None)
with lease.acquire(output.storage, [output.prefix]) as held:
    output.fence = held
    print("held", flush=True)
    sys.stdin.readline()
    try:
        output.write("late", b"1")
    except LeaseLost as error:
        print(error, flush=True)
    else:
        print("written", flush=True)
"""

STOPPED_BEFORE_THE_MANIFEST = """
import os, signal, sys
from mobileclip2.errors import LeaseLost
from mobileclip2.store import ArtifactFolder, Manifest, lease, open_storage
from pathlib import Path
lease.RENEW_SECONDS, lease.VOID_SECONDS = 0.5, 3.0
url, manifest = sys.argv[1:]
output = ArtifactFolder(open_storage(url), "a", Path(manifest).stem, "g00")
with lease.acquire(output.storage, [output.prefix]) as held:
    output.fence = held
    create = type(output.storage).create
    def stopped(self, key, data):
        if key.endswith("manifest.json"):
            os.kill(os.getpid(), signal.SIGSTOP)
        return create(self, key, data)
    type(output.storage).create = stopped
    try:
        output.commit(Manifest.from_bytes(Path(manifest).read_bytes()))
    except LeaseLost as error:
        print(error, flush=True)
    else:
        print("written", flush=True)
"""


@contextmanager
def stopped_before_its_manifest(storage, folder, manifest):
    """Start a process that renews its lease and is stopped before it writes its manifest."""
    path = folder / f"{manifest.fingerprint}.json"
    path.write_bytes(manifest.to_bytes())
    command = [sys.executable, "-c", STOPPED_BEFORE_THE_MANIFEST, storage.url, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        try:
            yield process
        finally:
            process.kill()


def check_that_a_stopped_process_replaces_no_manifest(storage, folder, manifest, lose_lease):
    output = ArtifactFolder(storage, "a", manifest().fingerprint, "g00")
    with stopped_before_its_manifest(storage, folder, manifest(samples=1)) as process:
        lose_lease(lease._key(output.prefix))
        with acquire(storage, [output.prefix]) as held:
            output.fence = held
            output.commit(manifest(samples=2))
        process.send_signal(signal.SIGCONT)
        assert "this lease was lost" in process.stdout.readline()
    assert output.read_manifest() == manifest(samples=2)


def test_a_process_that_lost_its_lease_does_not_replace_a_manifest(tmp_path, manifest):
    """On a local disk the process loses its lease only if the lease file is deleted."""
    storage = LocalStorage(tmp_path / "store")
    check_that_a_stopped_process_replaces_no_manifest(storage, tmp_path, manifest, storage.delete)


def test_the_holder_replaces_the_manifest_of_a_process_without_the_lease(tmp_path, manifest):
    output = ArtifactFolder(LocalStorage(tmp_path), "a", manifest().fingerprint, "g00")
    with acquire(output.storage, [output.prefix]) as held:
        output.fence = held
        output.write("manifest.json", manifest(samples=1).to_bytes())
        output.commit(manifest(samples=2))
    assert output.read_manifest() == manifest(samples=2)


class TestBucket:
    def test_a_process_that_lost_its_lease_does_not_replace_a_manifest(self, storage, tmp_path, manifest, monkeypatch):
        monkeypatch.setattr(lease, "VOID_SECONDS", 3.0)
        monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
        check_that_a_stopped_process_replaces_no_manifest(storage, tmp_path, manifest, lambda key: None)

    @pytest.mark.parametrize("another", [True, False])
    def test_a_process_stopped_beyond_its_lease_cannot_write(self, storage, monkeypatch, another):
        monkeypatch.setattr(lease, "VOID_SECONDS", 3.0)
        monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
        name = f"asset/{'0' * 16}"
        command = [sys.executable, "-c", STOPPED, storage.url]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin and process.stdout and process.stdout.readline() == "held\n"
            process.send_signal(signal.SIGSTOP)
            try:
                until(lambda: not is_held(storage, name))
                if another:
                    with acquire(storage, [name]):
                        pass
            finally:
                process.send_signal(signal.SIGCONT)
            print(file=process.stdin, flush=True)
            assert f"{name}: this lease was lost" in process.stdout.readline()
        assert not storage.exists(f"{name}/late")

    def test_a_commit_needs_the_lease(self, storage):
        output = ArtifactFolder(storage, "asset", "0" * 16, None)
        with acquire(storage, ["a"]) as held:
            output.fence = held
            held.renew()
            storage.write(lease._key("a"), b'{"holder": "other", "payload": "theirs"}')
            with pytest.raises(LeaseLost):
                held.renew()
            with pytest.raises(LeaseLost):
                output.write("b", b"1")
        assert payloads(storage) == ["theirs"]

    def test_the_clock_of_the_holder_does_not_end_its_lease(self, storage, monkeypatch):
        real = time.time
        with acquire(storage, ["a"], "mine") as held:
            for step in (1e6, -1e6):
                monkeypatch.setattr(time, "time", lambda step=step: real() + step)
                held.renew()
                held.check()
            assert payloads(storage) == ["mine"]

    def test_a_lease_that_cannot_be_renewed_is_lost(self, storage, monkeypatch):
        def away(*_):
            raise StoreError("away")

        with acquire(storage, ["a"]) as held:
            with monkeypatch.context() as patch:
                patch.setattr(storage, "read_version", away)
                with pytest.raises(StoreError, match="away"):
                    held.renew()
                held.check()
                patch.setattr(lease, "VOID_SECONDS", lease.DATE_SECONDS)
                with pytest.raises(LeaseLost):
                    held.check()
            with pytest.raises(LeaseLost):
                held.renew()

    @pytest.mark.parametrize("content", [b"", b"null", b'{"holder": 1, "payload": null}', b"\xff"])
    def test_an_unreadable_object_is_held_until_it_expires(self, storage, monkeypatch, content):
        storage.write(lease._key("a"), content)
        assert payloads(storage) == [None]
        assert lease._take(storage, lease._key("a"), "new", "a", "") is None
        monkeypatch.setattr(lease, "_is_expired", lambda held: True)
        with acquire(storage, ["a"], "mine"):
            assert json.loads(storage.read(lease._key("a")))["payload"] == "mine"

    @pytest.fixture
    def storage(self, bucket):
        return S3Storage(f"s3://{bucket}")

    def test_a_lease_has_only_one_holder(self, storage, monkeypatch):
        monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
        with acquire(storage, ["a"], "mine"):
            assert payloads(storage) == ["mine"]
            assert lease._take(storage, lease._key("a"), "another", "a", "") is None
        assert payloads(storage) == []
        with acquire(storage, ["a"]):
            pass

    def test_a_lease_without_renewal_expires(self, storage, monkeypatch):
        """Expiry uses the clock of the store, because the clock of a holder can be wrong."""
        body = {"holder": "gone", "renewed": time.time() - 2 * lease.VOID_SECONDS, "payload": "old"}
        storage.write(lease._key("a"), json.dumps(body).encode())
        assert payloads(storage) == ["old"]
        monkeypatch.setattr(lease, "VOID_SECONDS", 1.0)
        monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
        time.sleep(2.1)
        assert payloads(storage) == []
        with acquire(storage, ["a"], "new"):
            assert payloads(storage) == ["new"]

    def test_a_lease_is_renewed_while_its_holder_lives(self, storage, monkeypatch):
        monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
        with acquire(storage, ["a"], "mine"):
            first = json.loads(storage.read(lease._key("a")))["renewed"]
            until(lambda: json.loads(storage.read(lease._key("a")))["renewed"] != first)
