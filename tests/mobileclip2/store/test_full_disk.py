"""Stages report a full or read-only disk. The disk is a small tmpfs."""

import shutil
import subprocess

import pytest
import torch
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import StoreError
from tests.mobileclip2.engine.test_recovery import manifests

pytestmark = pytest.mark.slow


def mount(store, *options):
    return subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", store], capture_output=True)


@pytest.fixture
def small_disk(tiny):
    store = tiny.parent / "store"
    store.mkdir()
    if mount(store, "size=1m").returncode:
        pytest.skip("needs the right to mount a file system")
    yield store
    subprocess.run(["umount", "--lazy", store], check=True)


def leave(store, room):
    """Resize the disk so that ``room`` bytes are free."""
    size = shutil.disk_usage(store).used + room
    subprocess.run(["mount", "-o", f"remount,size={size}", store], check=True)


def test_every_stage_reports_a_full_disk_and_resumes(tiny, small_disk):
    torch.set_num_threads(1)
    values = yaml.safe_load(tiny.read_text())
    values.update({name: values[name][:1] for name in ("captioners", "teachers", "students")}, groups=1)
    tiny.write_text(yaml.safe_dump(values))
    pipeline, stopped = Pipeline(load(tiny)), set()
    for asset, group in pipeline.stale():
        room = 4096
        while True:
            leave(small_disk, room)
            try:
                Pipeline(load(tiny)).materialize(asset.key, group)
                break
            except StoreError as error:
                assert str(small_disk) in str(error) and "run again" in str(error)
                stopped.add(asset.key)
            room *= 4
    assert stopped == set(pipeline.graph)
    values["store"] = "undisturbed"
    tiny.write_text(yaml.safe_dump(values))
    undisturbed = Pipeline(load(tiny))
    for asset, group in undisturbed.stale():
        undisturbed.materialize(asset.key, group)
    assert manifests(small_disk) == manifests(tiny.parent / "undisturbed")


def test_a_read_only_file_system_is_reported(tiny, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match="the file system is read-only; point 'store' in the profile"):
        Pipeline(load(tiny)).materialize("raw_shards", "g00")
