import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mobileclip2.errors import StoreError
from mobileclip2.store import LocalStorage, S3Storage, lease
from mobileclip2.store.lease import acquire, is_held, payloads

HOLD = """
import sys, time
from mobileclip2.store import LocalStorage
from mobileclip2.store.lease import acquire
with acquire(LocalStorage(sys.argv[1]), ["a"], "from afar"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Another process that holds the lease 'a'."""
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


def test_notes_are_those_of_leases_that_are_held(tmp_path, elsewhere):
    storage = LocalStorage(tmp_path)
    with acquire(storage, ["b"], "from here"):
        assert sorted(payloads(storage)) == ["from afar", "from here"]
        assert is_held(storage, "a") and is_held(storage, "b") and not is_held(storage, "c")
    os.kill(elsewhere.pid, signal.SIGKILL)
    elsewhere.wait()
    assert payloads(storage) == []


def test_a_lease_that_cannot_be_written_is_given_back(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    storage = LocalStorage(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="the disk is full"):
        patch.setattr(os, "write", full)
        with acquire(storage, ["a"], "note"):
            pass
    assert not is_held(storage, "a")
    with acquire(storage, ["a", "a"], "one name, twice"):
        assert is_held(storage, "a")


class TestBucket:
    @pytest.fixture
    def storage(self, bucket, tmp_path):
        return S3Storage(f"s3://{bucket}", cache=tmp_path)

    def test_only_one_holds_it(self, storage, monkeypatch):
        monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
        with acquire(storage, ["a"], "mine"):
            assert payloads(storage) == ["mine"]
            assert lease._take(storage, lease._key("a"), "") is None
        assert payloads(storage) == []
        with acquire(storage, ["a"]):
            pass

    def test_a_lease_that_nobody_renews_is_void(self, storage, monkeypatch):
        """Expiry uses the clock of the store, because the clock of a holder can be wrong."""
        body = {"holder": "gone", "renewed": time.time() - 2 * lease.VOID_SECONDS, "note": "old"}
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
            deadline = time.monotonic() + 20
            while json.loads(storage.read(lease._key("a")))["renewed"] == first:
                assert time.monotonic() < deadline
                time.sleep(0.02)
